"""Faithfulness, against scores that can be computed another way: closed forms, a slow loop, the service itself."""

import asyncio
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from percept.bundle.manifest import Preprocessing
from percept.errors import BadParameter
from percept.explain.faithfulness import (
    BLUR,
    PASSES,
    STEPS,
    Faithfulness,
    perturbed_images,
    require_scores,
    score_function,
    summarize,
)
from percept.explain.judge import judged
from percept.explain.maps import resize
from percept.runtime.execution_plan import ExecutionPlan, create_worker_pools
from percept.runtime.model import Model, load_model
from percept.tasks.table import TASKS
from percept.tasks.task import activate
from tests.bundles import COLOUR_WEIGHTS, create_bundle, read_manifest_json, write_manifest
from tests.conftest import Server
from tests.percept.tasks.test_table import manifest
from tests.photos import draw_marker, encode_photo

BLACK = (0.0, 0.0, 0.0)
SIDE = 32
FLOATS = np.float32


def measure(pixels: np.ndarray, heat: np.ndarray, score: Callable[[np.ndarray], float], blank=BLACK) -> Faithfulness:
    return summarize(score(pixels), [score(one) for one in perturbed_images(pixels, heat, blank)])


def white() -> np.ndarray:
    return np.full((SIDE, SIDE, 3), 255, np.uint8)


def chequered() -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], float]]:
    """An image, the block that is its object, and the share of the block's white pixels that are still white.

    Outside the block all is black; no blurred pixel is white.
    """
    block = np.zeros((SIDE, SIDE), bool)
    block[8:16, 20:28] = True
    known = block & (np.indices(block.shape).sum(0) % 2 == 0)
    pixels = np.where(known[:, :, None], 255, 0).repeat(3, 2).astype(np.uint8)
    return pixels, block.astype(FLOATS), lambda image: float((image[known] == 255).all(1).mean())


# What is asked


def test_the_images_are_made_one_by_one_and_as_many_as_is_said() -> None:
    found = perturbed_images(white(), np.ones((4, 4), FLOATS), BLACK)
    assert isinstance(found, Iterator)
    images = list(found)
    assert len(images) == PASSES == 35
    assert {(one.dtype, one.shape) for one in images} == {(np.dtype(np.uint8), (SIDE, SIDE, 3))}


def test_the_hot_region_is_half_of_the_maximum_and_above() -> None:
    heat = np.zeros((SIDE, SIDE), FLOATS)
    heat[0, :4] = 0.8, 0.4, 0.39, 0.01
    removed, kept, *_ = perturbed_images(white(), heat, (10.4, -5.0, 300.0))
    nothing = [10, 0, 255]
    assert removed[0, :4].tolist() == [nothing, nothing, [255] * 3, [255] * 3]
    assert kept[0, :4].tolist() == [[255] * 3, [255] * 3, nothing, nothing]
    assert ((removed == 255).all(2) ^ (kept == 255).all(2)).all()


def test_a_map_of_few_cells_is_enlarged_bilinearly() -> None:
    heat = np.array([[1, 0], [0.5, 0.2]], FLOATS)
    faded = list(itertools.islice(perturbed_images(white(), heat, BLACK), 3))[2]
    np.testing.assert_allclose(faded[:, :, 0], 255 * resize(heat, (SIDE, SIDE)), atol=0.51)


def test_pixels_go_and_come_by_their_heat() -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(1, 256, (SIDE, SIDE, 3), np.uint8)
    heat = rng.permutation(SIDE * SIDE).reshape(SIDE, SIDE).astype(FLOATS) / SIDE**2
    images = list(perturbed_images(pixels, heat, BLACK))[3:]
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(SIDE * BLUR)))
    for k in range(STEPS):
        gone = heat >= 1 - (k + 1) / STEPS
        np.testing.assert_array_equal(images[k], np.where(gone[:, :, None], 0, pixels))
        come = heat >= 1 - k / STEPS
        np.testing.assert_array_equal(images[STEPS + k], np.where(come[:, :, None], pixels, blurred))


@pytest.mark.parametrize("level", [0, 0.3, 1])
def test_equally_hot_pixels_go_in_reading_order(level: float) -> None:
    images = list(perturbed_images(white(), np.full((5, 7), level, FLOATS), BLACK))[3 : 3 + STEPS]
    for k, image in enumerate(images, 1):
        rows = k * SIDE // STEPS
        assert not image[:rows].any()
        assert (image[rows:] == 255).all()


# What is measured


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (7, 7), (SIDE, SIDE)]))
@settings(max_examples=20, deadline=None)
def test_where_every_pixel_counts_alike_deletion_is_a_half_whatever_the_map(seed: int, shape: tuple[int, int]) -> None:
    heat = np.random.default_rng(seed).random(shape, FLOATS)
    found = measure(white(), heat, lambda image: float(image.mean() / 255))
    np.testing.assert_allclose(found.deletion_curve, 1 - np.arange(STEPS + 1) / STEPS)
    assert found.deletion == pytest.approx(0.5)
    assert found.removed + found.kept == pytest.approx(1)


def test_deletion_of_a_linear_score_is_the_sum_of_the_weights_that_are_left() -> None:
    rng = np.random.default_rng(5)
    w = rng.random((SIDE, SIDE))
    w /= w.sum()
    heat = rng.random((SIDE, SIDE), FLOATS)
    found = measure(white(), heat, lambda image: float((image[:, :, 0] / 255 * w).sum()))
    left = 1 - np.cumsum(w.ravel()[np.argsort(-heat.ravel())])[SIDE**2 // STEPS - 1 :: SIDE**2 // STEPS]
    curve = np.array([1, *left])
    np.testing.assert_allclose(found.deletion_curve, curve, atol=1e-9)
    assert found.deletion == pytest.approx((curve.sum() - curve[0] / 2 - curve[-1] / 2) / STEPS)
    best = measure(white(), w.astype(FLOATS), lambda image: float((image[:, :, 0] / 255 * w).sum()))
    assert best.deletion < found.deletion


def test_the_perfect_map_has_the_best_measures_and_its_reverse_the_worst() -> None:
    """Its block is 1/16 of the pixels: one step takes all of it, or brings it."""
    pixels, block, score = chequered()
    perfect, reversed_ = measure(pixels, block, score), measure(pixels, 1 - block, score)
    step = 1 / (2 * STEPS)
    assert (perfect.deletion, perfect.insertion) == pytest.approx((step, 1 - step))
    assert (reversed_.deletion, reversed_.insertion) == pytest.approx((1 - step, step))
    assert (perfect.score, perfect.removed, perfect.kept, perfect.average_drop) == (1, 0, 1, 0)
    assert (reversed_.score, reversed_.removed, reversed_.kept, reversed_.average_drop) == (1, 1, 0, 1)
    assert not perfect.increase
    assert not reversed_.increase


def test_a_map_of_zeros_has_no_hot_region_and_nothing_is_left_of_the_image_times_it() -> None:
    pixels, block, score = chequered()
    found = measure(pixels, np.zeros((4, 4), FLOATS), score)
    assert (found.removed, found.kept, found.average_drop, found.increase) == (1, 0, 1, False)
    rows = block.any(1).nonzero()[0]  # 8 of 32: removed by steps 5 to 8
    assert found.deletion_curve == pytest.approx([1] * 5 + [0.75, 0.5, 0.25] + [0] * 9)
    assert (rows.min(), rows.max()) == (8, 15)


def test_a_score_that_grows_without_the_rest_is_an_increase_and_no_drop() -> None:
    heat = np.zeros((SIDE, SIDE), FLOATS)
    heat[:, : SIDE // 2] = 1
    found = measure(white(), heat, lambda image: float(0.5 + (image[:, :16].mean() - image[:, 16:].mean()) / 510))
    assert (found.score, found.kept, found.removed) == (0.5, 1, 0)
    assert (found.increase, found.average_drop) == (True, 0)


@pytest.mark.parametrize(("y", "o", "drop", "increase"), [(0.8, 0.6, 0.25, False), (0, 0, 0, False), (0, 0.1, 0, True)])
def test_the_average_drop_is_a_share_of_the_score(y: float, o: float, drop: float, increase: bool) -> None:
    found = summarize(y, [0.1, 0.2, o, *[0.0] * (2 * STEPS)])
    assert found.average_drop == pytest.approx(drop)
    assert found.increase is increase
    assert (found.removed, found.kept) == (0.1, 0.2)


def test_the_curves_begin_and_end_with_what_is_known() -> None:
    scores = [k / 100 for k in range(PASSES)]
    found = summarize(0.9, scores)
    assert found.deletion_curve == [0.9, *scores[3 : 3 + STEPS]]
    assert found.insertion_curve == [*scores[3 + STEPS :], 0.9]
    with pytest.raises(ValueError, match="not enough values"):
        summarize(0.9, [0.1])


# Whose score it is


def test_the_score_of_a_class_is_that_of_its_task() -> None:
    logits = np.array([2.0, 1.0, -1.0], FLOATS)
    said = manifest("classification")
    seed = TASKS["classification"].seed(said, logits, 1, None)
    for changed in (logits, logits[::-1]):
        assert score_function(said, seed, 1)(changed) == pytest.approx(activate(changed, "softmax")[1])


def test_against_a_class_the_score_is_a_softmax_among_the_two() -> None:
    logits = np.array([2.0, 1.0, 7.0], FLOATS)
    said = manifest("classification")
    one, other = (
        score_function(said, TASKS["classification"].seed(said, logits, a, None), a, b)(logits)
        for a, b in ((0, 1), (1, 0))
    )
    assert one == pytest.approx(np.exp(2) / (np.exp(2) + np.exp(1)))
    assert one + other == pytest.approx(1)


def test_a_segmenters_score_is_the_mean_over_the_cells_that_it_saw_first() -> None:
    """The seed is that of the whole image, whatever is predicted later."""
    said, rng = manifest("segmentation"), np.random.default_rng(2)
    logits, later = rng.standard_normal((2, 4, 2, 2)).astype(FLOATS)
    target = int(logits[:, 0, 0].argmax())
    seed = TASKS["segmentation"].seed(said, logits, target, None)
    cells = logits.argmax(0) == target
    assert score_function(said, seed, target)(later) == pytest.approx(activate(later, "softmax")[target][cells].mean())
    margin = (later[target] - later[0])[cells].mean()
    assert score_function(said, seed, target, 0)(later) == pytest.approx(1 / (1 + np.exp(-margin)), rel=1e-5)


def test_bare_logits_are_no_scores_but_their_difference_has_one() -> None:
    bare = manifest("classification", activation="none")
    with pytest.raises(BadParameter, match="bare logits"):
        require_scores(bare)
    require_scores(bare, against=0)
    require_scores(manifest("classification", activation="sigmoid"))


# How a model is asked


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    plan = ExecutionPlan("cpu", 2, 1, 3, 64)
    staff = create_worker_pools(plan, 2)
    found = load_model(create_bundle(tmp_path, mean=[120, 130, 140], channels="BGR"), plan, staff)
    yield found
    staff.close()


def red_scores(images: Sequence[np.ndarray]) -> list[float]:
    """What the marker network says of red, in NumPy."""
    logits = np.stack([np.maximum(image @ COLOUR_WEIGHTS.T, 0).mean((0, 1)) for image in images])
    return activate(logits.T.astype(FLOATS), "softmax")[0].tolist()


def test_a_model_is_asked_about_every_image_in_no_more_than_its_batches(model: Model, monkeypatch) -> None:
    submit, waiting, most, asked = model.queue.submit, 0, 0, 0

    async def counted(item):
        nonlocal waiting, most, asked
        waiting, asked = waiting + 1, asked + 1
        most = max(most, waiting)
        try:
            return await submit(item)
        finally:
            waiting -= 1

    monkeypatch.setattr(model.queue, "submit", counted)
    pixels = np.asarray(draw_marker((32, 32), (10, 20), 6))
    heat = np.random.default_rng(1).random((8, 8), FLOATS)

    async def run() -> Faithfulness:
        logits = (await model.logits(pixels[None]))[0]
        seed = np.eye(3, dtype=FLOATS)[0]
        return await judged(model, pixels, logits, heat, score_function(model.manifest, seed, 0), asyncio.to_thread)

    found = asyncio.run(run())
    assert (asked, most) == (1 + PASSES, 6)
    blank = (140.0, 130.0, 120.0)
    expected = summarize(red_scores([pixels])[0], red_scores(list(perturbed_images(pixels, heat, blank))))
    for name, value in expected:
        assert getattr(found, name) == pytest.approx(value, rel=1e-4), name


def test_who_leaves_is_not_worked_for_any_longer(model: Model, monkeypatch) -> None:
    submit, asked = model.queue.submit, 0

    async def counted(item):
        nonlocal asked
        asked += 1
        return await submit(item)

    monkeypatch.setattr(model.queue, "submit", counted)
    pixels = np.asarray(draw_marker((32, 32), (10, 20), 6))

    async def run() -> None:
        args = (np.zeros(3, FLOATS), np.ones((2, 2), FLOATS), lambda logits: 0.5, asyncio.to_thread)
        task = asyncio.create_task(judged(model, pixels, *args))
        while not asked:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        before = asked
        assert before <= 6
        assert (await model.logits(pixels[None])).shape == (1, 3)
        await asyncio.sleep(0.05)
        assert asked == before + 1

    asyncio.run(run())


# What the service answers

CLASSIFIER, SEGMENTER = "/cam?model=classification-squeeze", "/cam?model=segmentation-squeeze"
PHOTO = draw_marker((150, 110), (40, 30), 16)
PHOTO.paste((0, 0, 255), (100, 70, 120, 90))
DATA = encode_photo(PHOTO)


def ask(client: httpx.Client, url: str) -> dict:
    answer = client.post(f"{url}&format=json&faithfulness=true", content=DATA)
    assert answer.status_code == 200, answer.text
    return answer.json()


def by_hand(heat: np.ndarray, score: Callable[[np.ndarray], float]) -> dict[str, object]:
    """Everything once more, pixel by pixel."""
    pixels = np.asarray(PHOTO.resize((48, 64), Image.Resampling.BILINEAR))
    H = np.asarray(Image.fromarray(heat).resize((48, 64), Image.Resampling.BILINEAR))
    order = sorted(np.ndindex(64, 48), key=lambda place: -float(H[place]))
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(64 * BLUR)))
    deletion, insertion = [], []
    for k in range(17):
        gone, come = pixels.copy(), blurred.copy()
        for place in order[: k * len(order) // 16]:
            gone[place] = 0
            come[place] = pixels[place]
        deletion.append(score(gone))
        insertion.append(score(come))
    hot = (H.max() / 2 <= H)[:, :, None]
    y, o = score(pixels), score(np.rint(pixels * H[:, :, None]).astype(np.uint8))
    return {
        "score": y,
        "removed": score(np.where(hot, 0, pixels)),
        "kept": score(np.where(hot, pixels, 0)),
        "average_drop": max(0, y - o) / y,
        "increase": o > y,
        "deletion": sum(deletion[1:-1]) / 16 + (deletion[0] + deletion[-1]) / 32,
        "insertion": sum(insertion[1:-1]) / 16 + (insertion[0] + insertion[-1]) / 32,
        "deletion_curve": deletion,
        "insertion_curve": insertion,
    }


def colours(pixels: np.ndarray) -> np.ndarray:
    """The layer of the marker bundles, [3,h,w]: its logits are the means, or with the ground the cells."""
    seen = np.maximum(pixels @ COLOUR_WEIGHTS.T, 0)
    return seen.reshape(16, 4, 12, 4, 3).mean((1, 3)).transpose(2, 0, 1).astype(FLOATS)


def softmax_of(logits: np.ndarray, k: int) -> np.ndarray:
    return (np.exp(logits) / np.exp(logits).sum(0))[k]


def cells_of(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([np.full((1, 16, 12), 0.5), colours(pixels)])


def among_red_and_blue(pixels: np.ndarray) -> float:
    red, _, blue = colours(pixels).mean((1, 2))
    return float(1 / (1 + np.exp(red - blue)))


WHOLE = np.asarray(PHOTO.resize((48, 64), Image.Resampling.BILINEAR))
RED_CELLS = cells_of(WHOLE).argmax(0) == 1
ASKED = {
    "classifier": (f"{CLASSIFIER}&method=hirescam", lambda p: float(softmax_of(colours(p).mean((1, 2)), 0))),
    "another class": (f"{CLASSIFIER}&target=blue", lambda p: float(softmax_of(colours(p).mean((1, 2)), 2))),
    "no class": (f"{CLASSIFIER}&method=eigencam", lambda p: float(softmax_of(colours(p).mean((1, 2)), 0))),
    "against": (f"{CLASSIFIER}&target=blue&against=red&method=hirescam", among_red_and_blue),
    "segmenter": (f"{SEGMENTER}&target=red", lambda p: float(softmax_of(cells_of(p), 1)[RED_CELLS].mean())),
}


@pytest.mark.parametrize("case", ASKED)
def test_the_service_says_what_is_found_by_hand(client: httpx.Client, case: str) -> None:
    url, score = ASKED[case]
    array = client.post(f"{url}&format=npy&scale=unit", content=DATA)
    expected = by_hand(np.load(io.BytesIO(array.content)), score)
    found = ask(client, url)["faithfulness"]
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=2e-4), name
    assert found["deletion_curve"][0] == found["insertion_curve"][-1] == found["score"]


def test_without_the_marker_the_score_falls_and_with_nothing_else_it_stays(client: httpx.Client) -> None:
    found = ask(client, f"{SEGMENTER}&target=red")["faithfulness"]
    assert found["removed"] < 0.8 * found["score"]
    assert found["kept"] > 0.95 * found["score"]
    assert found["deletion"] < found["insertion"]


def test_nothing_is_measured_unless_it_is_asked_for(client: httpx.Client) -> None:
    answer = client.post(f"{CLASSIFIER}&format=json", content=DATA)
    assert answer.json()["faithfulness"] is None
    assert "percept-faithfulness" not in client.post(CLASSIFIER, content=DATA).headers


@pytest.mark.parametrize("kind", ["jpeg", "png", "npy"])
def test_pictures_and_arrays_say_it_in_a_header(client: httpx.Client, kind: str) -> None:
    answer = client.post(f"{CLASSIFIER}&format={kind}&faithfulness=true", content=DATA)
    said = dict(pair.split("=") for pair in answer.headers["percept-faithfulness"].split("; "))
    found = ask(client, CLASSIFIER)["faithfulness"]
    assert set(said) == {name for name in found if "curve" not in name}
    assert said.pop("increase") == str(found["increase"]).lower()
    numbers = {name: float(value) for name, value in said.items()}
    assert numbers == pytest.approx({name: found[name] for name in said}, rel=1e-5)
    assert answer.content == client.post(f"{CLASSIFIER}&format={kind}", content=DATA).content


def test_an_image_that_is_kept_can_be_asked_about(client: httpx.Client) -> None:
    found = ask(client, CLASSIFIER)
    again = client.get(f"/cam/{found['id']}?format=json&faithfulness=true")
    assert again.json() == found


def test_every_map_has_its_own(client: httpx.Client) -> None:
    results = ask(client, f"{CLASSIFIER}&target=red&target=blue")["results"]
    alone = [ask(client, f"{CLASSIFIER}&target={label}")["faithfulness"] for label in ("red", "blue")]
    assert [one["faithfulness"] for one in results] == alone
    assert alone[0] != alone[1]


def test_a_sheet_writes_the_areas_under_its_pictures(client: httpx.Client) -> None:
    plain, judged_ = (
        client.post(f"{CLASSIFIER}&view=sheet&by=methods&format=png{more}", content=DATA)
        for more in ("", "&faithfulness=true")
    )
    pictures = [np.asarray(Image.open(io.BytesIO(one.content))) for one in (plain, judged_)]
    assert pictures[0].shape == pictures[1].shape
    changed = (pictures[0] != pictures[1]).any(2)
    assert 0 < changed.mean() < 0.05
    bright = [(one[changed.any(1)] > 100).all(2).sum() for one in pictures]
    assert bright[1] > 1.2 * bright[0]  # two numbers in the place of one


@pytest.mark.parametrize(
    "url",
    [
        f"{CLASSIFIER}&faithfulness=maybe",
        f"{CLASSIFIER}&faithfulness=",
        f"{CLASSIFIER}&faithfulness=true&{'&'.join(['target=red'] * 17)}",
        f"{CLASSIFIER}&faithfulness=true&{'&'.join(['layer=colour'] * 17)}",
    ],
)
def test_what_cannot_be_measured_is_refused(client: httpx.Client, url: str) -> None:
    answer = client.post(url, content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
    assert "faithfulness" in answer.json()["detail"]


def test_sixteen_maps_are_not_too_many(client: httpx.Client) -> None:
    results = ask(client, f"{CLASSIFIER}&{'&'.join(['target=red'] * 16)}")["results"]
    assert len(results) == 16
    assert len(ask(client, f"{CLASSIFIER}&top=20")["results"]) == 3  # there are no more classes


def test_a_model_of_bare_logits_is_asked_against_a_class_only(start: Callable[..., Server], tmp_path: Path) -> None:
    folder = create_bundle(tmp_path, "bare")
    write_manifest(folder, read_manifest_json(folder) | {"activation": "none"})
    client = start(tmp_path).client
    answer = client.post("/cam?model=bare&faithfulness=true", content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
    assert "against" in answer.json()["detail"]
    found = ask(client, "/cam?model=bare&target=red&against=blue")["faithfulness"]
    assert found["score"] > 0.5


def test_it_ends_at_the_deadline(start: Callable[..., Server], bundles: Path) -> None:
    hasty = start(bundles, PERCEPT_DEADLINE_S="0.005")
    answer = hasty.client.post(f"{CLASSIFIER}&faithfulness=true&top=3", content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert hasty.client.get("/health/ready").status_code == 200


def test_it_does_not_hold_up_a_prediction(server: Server) -> None:
    async def race() -> int:
        async with httpx.AsyncClient(base_url=server.client.base_url, timeout=60) as http:
            url = f"{CLASSIFIER}&faithfulness=true&{'&'.join(['target=red'] * 16)}"
            slow = asyncio.create_task(http.post(url, content=DATA))
            between = 0
            while not slow.done():
                (await http.post("/predict?model=classification-squeeze", content=DATA)).raise_for_status()
                between += 1
            assert slow.result().status_code == 200
            return between

    assert asyncio.run(race()) >= 3


@pytest.mark.parametrize("model", ["cifar10", "clothing"])
def test_the_built_in_models_can_be_asked(start: Callable[..., Server], model: str) -> None:
    found = ask(start().client, f"/cam?model={model}")["faithfulness"]
    numbers = [value for name, value in found.items() if name not in ("deletion_curve", "insertion_curve")]
    assert all(0 <= value <= 1 for value in [*numbers, *found["deletion_curve"], *found["insertion_curve"]])
    assert len(found["deletion_curve"]) == len(found["insertion_curve"]) == STEPS + 1


def test_the_blank_colour_is_red_green_and_blue_whatever_the_graph_takes() -> None:
    rule = Preprocessing(height=8, width=8, mean=(1, 2, 3))
    assert rule.blank == (1, 2, 3)
    assert rule.model_copy(update={"channels": "BGR"}).blank == (3, 2, 1)
