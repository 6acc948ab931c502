"""The effective receptive field: what moves a cell, against autograd, against moved pixels, and over HTTP."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from percept.bundle.manifest import IMAGE
from percept.explain.receptive_field import central_box, measure_influence
from percept.imaging.geometry import compute_geometry
from percept.runtime.network import Network, TrunkInput
from percept.settings import BUILT_IN_BUNDLES
from percept.tasks.input_image import InputImage
from percept_models.sources.trunk import Trunk
from percept_models.training.bundles import reference_network
from tests.photos import draw_marker, encode_photo

DATA = encode_photo(draw_marker((90, 120), (30, 40), 20))
PLACE = {"x": "45", "y": "60"}


@pytest.fixture(scope="module")
def builtin(start: Callable[..., Any]) -> httpx.Client:
    return start().client


class Subject:
    """A built-in network at a smooth picture of its own size."""

    def __init__(self, name: str) -> None:
        self.folder = BUILT_IN_BUNDLES / name / "1"
        self.network = Network(self.folder, "cpu", 1)
        self.manifest = self.network.manifest
        rule = self.manifest.preprocessing
        blots = np.random.default_rng(2).integers(0, 256, (6, 5, 3), np.uint8)
        photo = Image.fromarray(blots).resize((rule.width, rule.height), Image.Resampling.BICUBIC)
        self.pixels = np.asarray(photo)
        self.view = InputImage("", self, photo, compute_geometry(photo.size, rule), self.pixels, lambda: photo)

    def row(self, pixels: np.ndarray, *layers: str) -> dict[str, np.ndarray]:
        return self.network.run_trunk([TrunkInput(pixels, frozenset({"logits", IMAGE, *layers}))])[0]

    def influence(self, name: str, cell: tuple[int, int]) -> np.ndarray:
        return measure_influence(self.view, self.row(self.pixels, name), self.manifest.layer(name), cell)


@pytest.mark.parametrize(
    ("model", "layer", "cell"),
    [("cifar10", "stem", (0, 31)), ("cifar10", "stage1", (9, 4)), ("clothing", "stage2", (20, 11))],
)
def test_influence_is_the_gradient_at_the_image(model: str, layer: str, cell: tuple[int, int]) -> None:
    subject = Subject(model)
    module = Trunk(reference_network(subject.folder), subject.manifest.preprocessing, (IMAGE, layer))
    _, image, tap = module(torch.tensor(subject.pixels[None]))
    (g,) = torch.autograd.grad(tap[0, :, *cell].sum(), image)
    truth = g[0].pow(2).sum(0).sqrt().numpy()
    assert np.abs(subject.influence(layer, cell) - truth).max() < 1e-4 * truth.max()


@pytest.mark.parametrize(("layer", "cell"), [("stem", (3, 30)), ("stage1", (8, 8))])
def test_pixels_without_influence_are_those_that_change_nothing(layer: str, cell: tuple[int, int]) -> None:
    """No pixel beyond the theoretical field has any, and moving all of those leaves the cell as it is."""
    subject = Subject("cifar10")
    found, tap = subject.influence(layer, cell), subject.manifest.layer(layer)
    moved = np.where((found == 0)[..., None], 255 - subject.pixels, subject.pixels)
    reach = [
        (start + i * stride - size / 2, start + i * stride + size / 2)
        for start, i, stride, size in zip(
            tap.receptive_field.start, cell, tap.stride, tap.receptive_field.size, strict=True
        )
    ]
    rows, columns = np.nonzero(found)
    assert rows.min() >= reach[0][0] - 1e-6
    assert rows.max() < reach[0][1]
    assert columns.min() >= reach[1][0] - 1e-6
    assert columns.max() < reach[1][1]
    outside = np.ones_like(found, bool)
    outside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = False
    moved = np.where(outside[..., None], moved, subject.pixels)
    before, after = (subject.row(pixels, layer)[layer][:, *cell] for pixels in (subject.pixels, moved))
    assert outside.any()
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_the_extent_leaves_as_much_out_on_every_side() -> None:
    even = np.ones((40, 100), np.float32)
    np.testing.assert_allclose(central_box(even), (2.275, 0.91, 97.725, 39.09), atol=1e-4)
    y, x = np.mgrid[:201, :201]
    normal = np.exp(-((x - 80) ** 2) / 200 - (y - 120) ** 2 / 450).astype(np.float32)
    np.testing.assert_allclose(central_box(normal), (80.5 - 20, 120.5 - 30, 80.5 + 20, 120.5 + 30), atol=0.1)
    one = np.zeros((5, 7), np.float32)
    one[1, 4] = 3
    left, top, right, bottom = central_box(one)
    assert 4 <= left < right <= 5
    assert 1 <= top < bottom <= 2
    assert central_box(0 * one) is None


def test_what_a_cell_heeds_lies_in_what_it_can_see(builtin: httpx.Client) -> None:
    asked = {"model": "clothing", "layer": "stage2", "view": "effective", **PLACE}
    field = builtin.post("/features", params=asked | {"format": "json"}, content=DATA).json()["field"]
    effective = field["effective"]
    assert field["left"] <= effective["left"] < 45 < effective["right"] <= field["right"]
    assert field["top"] <= effective["top"] < 60 < effective["bottom"] <= field["bottom"]
    plain = builtin.post("/features", params=asked | {"view": "field", "format": "json"}, content=DATA).json()
    assert "effective" not in plain["field"]
    array = np.load(BytesIO(builtin.post("/features", params=asked | {"format": "npy"}, content=DATA).content))
    assert array.shape == (384, 256)
    assert array.min() >= 0


@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
def test_it_is_drawn_on_the_photo_and_again(builtin: httpx.Client, name: str) -> None:
    asked = {"layer": "stage1", "view": "effective", "format": name, **PLACE}
    drawn = builtin.post("/features", params={"model": "cifar10", **asked}, content=DATA)
    assert Image.open(BytesIO(drawn.content)).size == (90, 120)
    id = builtin.post("/predict?model=cifar10", content=DATA).json()["id"]
    assert builtin.get(f"/features/{id}", params=asked).content == drawn.content


def test_what_moves_the_peak_of_a_map_is_what_features_give_there(builtin: httpx.Client) -> None:
    asked = {"model": "clothing", "layer": "stage3", "target": "0"}
    peak = builtin.post("/cam", params=asked | {"field": "effective", "format": "json"}, content=DATA).json()["peak"]
    place = {"x": peak["x"], "y": peak["y"], "view": "effective", "format": "json"}
    field = builtin.post("/features", params={"model": "clothing", "layer": "stage3", **place}, content=DATA).json()
    assert peak["field"] == field["field"]
    assert peak["field"]["effective"] is not None
    pictures = [
        builtin.post("/cam", params=asked | {"field": how, "format": "png"}, content=DATA).content
        for how in ("false", "true", "effective")
    ]
    assert len(set(pictures)) == 3


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("field=effective&layer=stage1%2Bstage2", "bad_parameter"),
        ("field=often", "bad_parameter"),
        ("field=effective&format=npy", "bad_parameter"),
        ("field=effective&layer=image&method=saliency", "method_unavailable"),
    ],
)
def test_what_moves_no_peak_is_refused(builtin: httpx.Client, query: str, code: str) -> None:
    answer = builtin.post(f"/cam?model=cifar10&{query}", content=DATA)
    assert answer.json()["code"] == code, answer.text


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("layer=stage1&view=effective", "bad_parameter"),
        ("layer=stage1&view=effective&x=3", "bad_parameter"),
        ("layer=stage1&view=effective&x=3&y=1000", "bad_parameter"),
        ("layer=stage1&view=effective&x=3&y=3&pool=avg", "bad_parameter"),
        ("layer=image&view=effective&x=3&y=3", "method_unavailable"),
        ("layer=nothing&view=effective&x=3&y=3", "unknown_layer"),
    ],
)
def test_what_cannot_be_traced_is_refused(builtin: httpx.Client, query: str, code: str) -> None:
    answer = builtin.post(f"/features?model=cifar10&{query}", content=DATA)
    assert answer.json()["code"] == code, answer.text


def test_a_bundle_that_does_not_tap_its_image_says_so(client: httpx.Client) -> None:
    asked = "/features?model=classification-squeeze&layer=colour&view=effective&x=3&y=3"
    answer = client.post(asked, content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (422, "gradients_unavailable")
    assert "export it again" in answer.json()["detail"]
