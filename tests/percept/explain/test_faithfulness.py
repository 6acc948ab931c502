"""Faithfulness against closed forms, and driven with a real model."""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from percept.bundle.integrity import read_manifest
from percept.errors import BadParameter
from percept.explain.faithfulness import (
    BLUR,
    PASSES,
    STEPS,
    Faithfulness,
    measure_faithfulness,
    perturbed_images,
    require_scores,
    score_function,
    summarize,
)
from percept.explain.maps import resize
from percept.explain.runner import advance, drive
from percept.runtime.execution_plan import ExecutionPlan, create_worker_pools
from percept.runtime.model import Model, load_model
from percept.tasks.table import TASKS
from percept.tasks.task import activate
from tests.bundles import COLOUR_WEIGHTS, create_bundle
from tests.photos import draw_marker

BLACK = (0.0, 0.0, 0.0)
SIDE = 32
FLOATS = np.float32


def measure(pixels: np.ndarray, heat: np.ndarray, score: Callable[[np.ndarray], float], blank=BLACK) -> Faithfulness:
    return summarize(score(pixels), [score(one) for one in perturbed_images(pixels, heat, blank)])


def white_image() -> np.ndarray:
    return np.full((SIDE, SIDE, 3), 255, np.uint8)


def chequered_image() -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], float]]:
    """An image, the block that is its object, and a score: the share of the block's white pixels that are still white.

    Outside the block all pixels are black; no blurred pixel is white.
    """
    block = np.zeros((SIDE, SIDE), bool)
    block[8:16, 20:28] = True
    known = block & (np.indices(block.shape).sum(0) % 2 == 0)
    pixels = np.where(known[:, :, None], 255, 0).repeat(3, 2).astype(np.uint8)
    return pixels, block.astype(FLOATS), lambda image: float((image[known] == 255).all(1).mean())


def test_perturbed_images_are_made_lazily() -> None:
    iterator = perturbed_images(white_image(), np.ones((4, 4), FLOATS), BLACK)
    assert isinstance(iterator, Iterator)
    images = list(iterator)
    assert len(images) == PASSES == 35
    assert {(one.dtype, one.shape) for one in images} == {(np.dtype(np.uint8), (SIDE, SIDE, 3))}


def test_hot_region_starts_at_half_the_maximum() -> None:
    heat = np.zeros((SIDE, SIDE), FLOATS)
    heat[0, :4] = 0.8, 0.4, 0.39, 0.01
    removed, kept, *_ = perturbed_images(white_image(), heat, (10.4, -5.0, 300.0))
    colour = [10, 0, 255]
    assert removed[0, :4].tolist() == [colour, colour, [255] * 3, [255] * 3]
    assert kept[0, :4].tolist() == [[255] * 3, [255] * 3, colour, colour]
    assert ((removed == 255).all(2) ^ (kept == 255).all(2)).all()


def test_coarse_maps_are_resized_bilinearly() -> None:
    heat = np.array([[1, 0], [0.5, 0.2]], FLOATS)
    faded = list(itertools.islice(perturbed_images(white_image(), heat, BLACK), 3))[2]
    np.testing.assert_allclose(faded[:, :, 0], 255 * resize(heat, (SIDE, SIDE)), atol=0.51)


def test_pixels_are_removed_and_inserted_by_heat() -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(1, 256, (SIDE, SIDE, 3), np.uint8)
    heat = rng.permutation(SIDE * SIDE).reshape(SIDE, SIDE).astype(FLOATS) / FLOATS(SIDE**2)
    images = list(perturbed_images(pixels, heat, BLACK))[3:]
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(SIDE * BLUR)))
    for k in range(STEPS):
        removed = heat >= 1 - (k + 1) / STEPS
        np.testing.assert_array_equal(images[k], np.where(removed[:, :, None], 0, pixels))
        inserted = heat >= 1 - k / STEPS
        np.testing.assert_array_equal(images[STEPS + k], np.where(inserted[:, :, None], pixels, blurred))


@pytest.mark.parametrize("level", [0, 0.3, 1])
def test_equally_hot_pixels_are_removed_in_reading_order(level: float) -> None:
    images = list(perturbed_images(white_image(), np.full((5, 7), level, FLOATS), BLACK))[3 : 3 + STEPS]
    for k, image in enumerate(images, 1):
        rows = k * SIDE // STEPS
        assert not image[:rows].any()
        assert (image[rows:] == 255).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (7, 7), (SIDE, SIDE)]))
@settings(max_examples=20)
def test_deletion_is_half_where_all_pixels_count_alike(seed: int, shape: tuple[int, int]) -> None:
    heat = np.random.default_rng(seed).random(shape, FLOATS)
    found = measure(white_image(), heat, lambda image: float(image.mean() / 255))
    np.testing.assert_allclose(found.deletion_curve, 1 - np.arange(STEPS + 1) / STEPS)
    assert found.deletion == pytest.approx(0.5)
    assert found.removed + found.kept == pytest.approx(1)


def test_deletion_of_linear_scores_sums_the_remaining_weights() -> None:
    rng = np.random.default_rng(5)
    w = rng.random((SIDE, SIDE))
    w /= w.sum()
    heat = rng.random((SIDE, SIDE), FLOATS)
    found = measure(white_image(), heat, lambda image: float((image[:, :, 0] / 255 * w).sum()))
    left = 1 - np.cumsum(w.ravel()[np.argsort(-heat.ravel())])[SIDE**2 // STEPS - 1 :: SIDE**2 // STEPS]
    curve = np.array([1, *left])
    np.testing.assert_allclose(found.deletion_curve, curve, atol=1e-9)
    assert found.deletion == pytest.approx((curve.sum() - curve[0] / 2 - curve[-1] / 2) / STEPS)
    best = measure(white_image(), w.astype(FLOATS), lambda image: float((image[:, :, 0] / 255 * w).sum()))
    assert best.deletion < found.deletion


def test_perfect_map_is_best_and_its_reverse_worst() -> None:
    """The block is 1/16 of the pixels: one step removes or inserts all of it."""
    pixels, block, score = chequered_image()
    perfect, reversed_ = measure(pixels, block, score), measure(pixels, 1 - block, score)
    step = 1 / (2 * STEPS)
    assert (perfect.deletion, perfect.insertion) == pytest.approx((step, 1 - step))
    assert (reversed_.deletion, reversed_.insertion) == pytest.approx((1 - step, step))
    assert (perfect.score, perfect.removed, perfect.kept, perfect.average_drop) == (1, 0, 1, 0)
    assert (reversed_.score, reversed_.removed, reversed_.kept, reversed_.average_drop) == (1, 1, 0, 1)
    assert not perfect.increase
    assert not reversed_.increase


def test_map_of_zeros_has_no_hot_region() -> None:
    pixels, block, score = chequered_image()
    found = measure(pixels, np.zeros((4, 4), FLOATS), score)
    assert (found.removed, found.kept, found.average_drop, found.increase) == (1, 0, 1, False)
    rows = np.flatnonzero(block.any(1))  # 8 of 32: removed by steps 5 to 8
    assert found.deletion_curve == pytest.approx([1] * 5 + [0.75, 0.5, 0.25] + [0] * 9)
    assert (rows.min(), rows.max()) == (8, 15)


def test_higher_score_is_an_increase_and_no_drop() -> None:
    heat = np.zeros((SIDE, SIDE), FLOATS)
    heat[:, : SIDE // 2] = 1
    found = measure(white_image(), heat, lambda image: float(0.5 + (image[:, :16].mean() - image[:, 16:].mean()) / 510))
    assert (found.score, found.kept, found.removed) == (0.5, 1, 0)
    assert (found.increase, found.average_drop) == (True, 0)


@pytest.mark.parametrize(("y", "o", "drop", "increase"), [(0.8, 0.6, 0.25, False), (0, 0, 0, False), (0, 0.1, 0, True)])
def test_average_drop_is_relative_to_the_score(y: float, o: float, drop: float, increase: bool) -> None:
    found = summarize(y, [0.1, 0.2, o, *[0.0] * (2 * STEPS)])
    assert found.average_drop == pytest.approx(drop)
    assert found.increase is increase
    assert (found.removed, found.kept) == (0.1, 0.2)


def test_curves_start_and_end_at_the_score_of_the_image() -> None:
    scores = [k / 100 for k in range(PASSES)]
    found = summarize(0.9, scores)
    assert found.deletion_curve == [0.9, *scores[3 : 3 + STEPS]]
    assert found.insertion_curve == [*scores[3 + STEPS :], 0.9]
    with pytest.raises(ValueError, match="not enough values"):
        summarize(0.9, [0.1])


def test_score_function_is_the_score_of_the_task(tmp_path: Path) -> None:
    logits = np.array([2.0, 1.0, -1.0], FLOATS)
    manifest = read_manifest(create_bundle(tmp_path))
    seed = TASKS["classification"].seed(manifest, logits, 1, None)
    for changed in (logits, logits[::-1]):
        assert score_function(manifest, seed, 1)(changed) == pytest.approx(activate(changed, "softmax")[1])


def test_score_against_a_class_is_a_softmax_of_two(tmp_path: Path) -> None:
    logits = np.array([2.0, 1.0, 7.0], FLOATS)
    manifest = read_manifest(create_bundle(tmp_path))
    one, other = (
        score_function(manifest, TASKS["classification"].seed(manifest, logits, a, None), a, b)(logits)
        for a, b in ((0, 1), (1, 0))
    )
    assert one == pytest.approx(np.exp(2) / (np.exp(2) + np.exp(1)))
    assert one + other == pytest.approx(1)


def test_score_of_a_segmenter_keeps_the_cells_of_the_image(tmp_path: Path) -> None:
    """The seed is that of the whole image, whatever the perturbed images are predicted as."""
    manifest = read_manifest(create_bundle(tmp_path, task="segmentation"))
    rng = np.random.default_rng(2)
    logits, later = rng.standard_normal((2, 4, 2, 2)).astype(FLOATS)
    target = int(logits[:, 0, 0].argmax())
    seed = TASKS["segmentation"].seed(manifest, logits, target, None)
    cells = logits.argmax(0) == target
    assert score_function(manifest, seed, target)(later) == pytest.approx(
        activate(later, "softmax")[target][cells].mean()
    )
    margin = (later[target] - later[0])[cells].mean()
    assert score_function(manifest, seed, target, 0)(later) == pytest.approx(1 / (1 + np.exp(-margin)), rel=1e-5)


def test_bare_logits_need_a_class_to_compare_with(tmp_path: Path) -> None:
    manifest = read_manifest(create_bundle(tmp_path))
    bare = manifest.model_copy(update={"activation": "none"})
    with pytest.raises(BadParameter, match="bare logits"):
        require_scores(bare)
    require_scores(bare, against=0)
    require_scores(manifest.model_copy(update={"activation": "sigmoid"}))


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    plan = ExecutionPlan("cpu", 2, 1, 3, 64)
    pools = create_worker_pools(plan, 2)
    loaded = load_model(create_bundle(tmp_path, mean=[120, 130, 140], channels="BGR"), plan, pools)
    yield loaded
    pools.close()


def red_scores(images: Sequence[np.ndarray]) -> list[float]:
    """The marker network's scores of red, computed with NumPy."""
    logits = np.stack([np.maximum(image @ COLOUR_WEIGHTS.T, 0).mean((0, 1)) for image in images])
    return activate(logits.T.astype(FLOATS), "softmax")[0].tolist()


def test_measurement_queues_at_most_two_batches(model: Model, monkeypatch) -> None:
    submit, waiting, most, total = model.queue.submit, 0, 0, 0

    async def count(*entry):
        nonlocal waiting, most, total
        waiting, total = waiting + 1, total + 1
        most = max(most, waiting)
        try:
            return await submit(*entry)
        finally:
            waiting -= 1

    monkeypatch.setattr(model.queue, "submit", count)
    pixels = np.asarray(draw_marker((32, 32), (10, 20), 6))
    heat = np.random.default_rng(1).random((8, 8), FLOATS)

    async def run() -> Faithfulness:
        logits = (await model.logits(pixels[None]))[0]
        seed = np.eye(3, dtype=FLOATS)[0]
        score, blank = score_function(model.manifest, seed, 0), model.manifest.preprocessing.blank
        return await drive(advance(measure_faithfulness(pixels, logits, heat, score, blank)), model, asyncio.to_thread)

    found = asyncio.run(run())
    assert (total, most) == (1 + PASSES, 6)
    blank = (140.0, 130.0, 120.0)
    expected = summarize(red_scores([pixels])[0], red_scores(list(perturbed_images(pixels, heat, blank))))
    for name, value in expected:
        assert getattr(found, name) == pytest.approx(value, rel=1e-4), name


def test_cancelled_measurement_requests_nothing_more(model: Model, monkeypatch) -> None:
    submit, total = model.queue.submit, 0

    async def count(*entry):
        nonlocal total
        total += 1
        return await submit(*entry)

    monkeypatch.setattr(model.queue, "submit", count)
    pixels = np.asarray(draw_marker((32, 32), (10, 20), 6))

    async def run() -> None:
        steps = measure_faithfulness(pixels, np.zeros(3, FLOATS), np.ones((2, 2), FLOATS), lambda logits: 0.5, BLACK)
        task = asyncio.create_task(drive(advance(steps), model, asyncio.to_thread))
        while not total:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        before = total
        assert before <= 6
        assert (await model.logits(pixels[None])).shape == (1, 3)
        await asyncio.sleep(0.05)
        assert total == before + 1

    asyncio.run(run())
