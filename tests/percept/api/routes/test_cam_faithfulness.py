"""`/cam?faithfulness=true`: the measures against a slow loop over pixels, in JSON, headers and contact sheets."""

import asyncio
import io
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image, ImageFilter

from percept.explain.faithfulness import BLUR, STEPS
from tests.bundles import COLOUR_WEIGHTS, create_bundle, read_manifest_json, write_manifest
from tests.conftest import Server
from tests.photos import draw_marker, encode_photo

CLASSIFIER, SEGMENTER = "/cam?model=classification-squeeze", "/cam?model=segmentation-squeeze"
PHOTO = draw_marker((150, 110), (40, 30), 16)
PHOTO.paste((0, 0, 255), (100, 70, 120, 90))
DATA = encode_photo(PHOTO)


def measure(client: httpx.Client, url: str) -> dict:
    answer = client.post(f"{url}&format=json&faithfulness=true", content=DATA)
    assert answer.status_code == 200, answer.text
    return answer.json()


def measure_by_hand(heat: np.ndarray, score: Callable[[np.ndarray], float]) -> dict[str, object]:
    """The measures, computed pixel by pixel."""
    pixels = np.asarray(PHOTO.resize((48, 64), Image.Resampling.BILINEAR))
    H = np.asarray(Image.fromarray(heat).resize((48, 64), Image.Resampling.BILINEAR))
    order = sorted(np.ndindex(64, 48), key=lambda place: -float(H[place]))
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(64 * BLUR)))
    deletion, insertion = [], []
    for k in range(17):
        removed, inserted = pixels.copy(), blurred.copy()
        for place in order[: k * len(order) // 16]:
            removed[place] = 0
            inserted[place] = pixels[place]
        deletion.append(score(removed))
        insertion.append(score(inserted))
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
    """The layer of the marker bundles, [3,h,w]; the logits are its means, or for a segmenter its cells."""
    activations = np.maximum(pixels @ COLOUR_WEIGHTS.T, 0)
    return activations.reshape(16, 4, 12, 4, 3).mean((1, 3)).transpose(2, 0, 1).astype(np.float32)


def softmax_of(logits: np.ndarray, k: int) -> np.ndarray:
    return (np.exp(logits) / np.exp(logits).sum(0))[k]


def cells_of(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([np.full((1, 16, 12), 0.5), colours(pixels)])


def among_red_and_blue(pixels: np.ndarray) -> float:
    red, _, blue = colours(pixels).mean((1, 2))
    return float(1 / (1 + np.exp(red - blue)))


WHOLE = np.asarray(PHOTO.resize((48, 64), Image.Resampling.BILINEAR))
RED_CELLS = cells_of(WHOLE).argmax(0) == 1
CASES = {
    "classifier": (f"{CLASSIFIER}&method=hirescam", lambda p: float(softmax_of(colours(p).mean((1, 2)), 0))),
    "another class": (f"{CLASSIFIER}&target=blue", lambda p: float(softmax_of(colours(p).mean((1, 2)), 2))),
    "no class": (f"{CLASSIFIER}&method=eigencam", lambda p: float(softmax_of(colours(p).mean((1, 2)), 0))),
    "against": (f"{CLASSIFIER}&target=blue&against=red&method=hirescam", among_red_and_blue),
    "segmenter": (f"{SEGMENTER}&target=red", lambda p: float(softmax_of(cells_of(p), 1)[RED_CELLS].mean())),
}


@pytest.mark.parametrize("case", CASES)
def test_measures_equal_those_computed_by_hand(client: httpx.Client, case: str) -> None:
    url, score = CASES[case]
    array = client.post(f"{url}&format=npy&scale=unit", content=DATA)
    expected = measure_by_hand(np.load(io.BytesIO(array.content)), score)
    found = measure(client, url)["faithfulness"]
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=2e-4), name
    assert found["deletion_curve"][0] == found["insertion_curve"][-1] == found["score"]


def test_score_depends_on_the_marker_alone(client: httpx.Client) -> None:
    found = measure(client, f"{SEGMENTER}&target=red")["faithfulness"]
    assert found["removed"] < 0.8 * found["score"]
    assert found["kept"] > 0.95 * found["score"]
    assert found["deletion"] < found["insertion"]


def test_faithfulness_is_measured_on_request_only(client: httpx.Client) -> None:
    answer = client.post(f"{CLASSIFIER}&format=json", content=DATA)
    assert answer.json()["faithfulness"] is None
    assert "percept-faithfulness" not in client.post(CLASSIFIER, content=DATA).headers


@pytest.mark.parametrize("kind", ["jpeg", "png", "npy"])
def test_pictures_and_arrays_carry_a_header(client: httpx.Client, kind: str) -> None:
    answer = client.post(f"{CLASSIFIER}&format={kind}&faithfulness=true", content=DATA)
    header = dict(pair.split("=") for pair in answer.headers["percept-faithfulness"].split("; "))
    found = measure(client, CLASSIFIER)["faithfulness"]
    assert set(header) == {name for name in found if "curve" not in name}
    assert header.pop("increase") == str(found["increase"]).lower()
    numbers = {name: float(value) for name, value in header.items()}
    assert numbers == pytest.approx({name: found[name] for name in header}, rel=1e-5)
    assert answer.content == client.post(f"{CLASSIFIER}&format={kind}", content=DATA).content


def test_cached_images_can_be_measured(client: httpx.Client) -> None:
    found = measure(client, CLASSIFIER)
    again = client.get(f"/cam/{found['id']}?format=json&faithfulness=true")
    assert again.json() == found


def test_every_map_is_measured(client: httpx.Client) -> None:
    results = measure(client, f"{CLASSIFIER}&target=red&target=blue")["results"]
    alone = [measure(client, f"{CLASSIFIER}&target={label}")["faithfulness"] for label in ("red", "blue")]
    assert [one["faithfulness"] for one in results] == alone
    assert alone[0] != alone[1]


def test_contact_sheet_shows_the_areas(client: httpx.Client) -> None:
    plain, measured = (
        client.post(f"{CLASSIFIER}&view=sheet&by=methods&format=png{more}", content=DATA)
        for more in ("", "&faithfulness=true")
    )
    pictures = [np.asarray(Image.open(io.BytesIO(one.content))) for one in (plain, measured)]
    assert pictures[0].shape == pictures[1].shape
    changed = (pictures[0] != pictures[1]).any(2)
    assert 0 < changed.mean() < 0.05
    bright = [(one[changed.any(1)] > 100).all(2).sum() for one in pictures]
    assert bright[1] > 1.2 * bright[0]  # two numbers instead of one


@pytest.mark.parametrize(
    "url",
    [
        f"{CLASSIFIER}&faithfulness=maybe",
        f"{CLASSIFIER}&faithfulness=",
        f"{CLASSIFIER}&faithfulness=true&{'&'.join(['target=red'] * 17)}",
        f"{CLASSIFIER}&faithfulness=true&{'&'.join(['layer=colour'] * 17)}",
    ],
)
def test_unmeasurable_requests_are_rejected(client: httpx.Client, url: str) -> None:
    answer = client.post(url, content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
    assert "faithfulness" in answer.json()["detail"]


def test_sixteen_maps_can_be_measured(client: httpx.Client) -> None:
    results = measure(client, f"{CLASSIFIER}&{'&'.join(['target=red'] * 16)}")["results"]
    assert len(results) == 16
    assert len(measure(client, f"{CLASSIFIER}&top=20")["results"]) == 3  # the model has three classes


def test_bare_logits_are_measured_against_a_class_only(start: Callable[..., Server], tmp_path: Path) -> None:
    folder = create_bundle(tmp_path, "bare")
    write_manifest(folder, read_manifest_json(folder) | {"activation": "none"})
    client = start(tmp_path).client
    answer = client.post("/cam?model=bare&faithfulness=true", content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
    assert "against" in answer.json()["detail"]
    found = measure(client, "/cam?model=bare&target=red&against=blue")["faithfulness"]
    assert found["score"] > 0.5


def test_measurement_ends_at_the_deadline(start: Callable[..., Server], bundles: Path) -> None:
    server = start(bundles, PERCEPT_DEADLINE_S="0.005")
    answer = server.client.post(f"{CLASSIFIER}&faithfulness=true&top=3", content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert server.client.get("/health/ready").status_code == 200


def test_measurement_does_not_delay_predictions(server: Server) -> None:
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
def test_built_in_models_can_be_measured(start: Callable[..., Server], model: str) -> None:
    found = measure(start().client, f"/cam?model={model}")["faithfulness"]
    numbers = [value for name, value in found.items() if name not in ("deletion_curve", "insertion_curve")]
    assert all(0 <= value <= 1 for value in [*numbers, *found["deletion_curve"], *found["insertion_curve"]])
    assert len(found["deletion_curve"]) == len(found["insertion_curve"]) == STEPS + 1
