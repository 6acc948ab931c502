"""The image as a layer: what single pixels do to a class, by the built-in models."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from percept.bundle.integrity import read_manifest
from percept.explain.methods import METHODS
from percept.explain.protocol import MethodInput, PassResult, TailRequest, run_method
from percept.runtime.network import Network, TrunkInput
from percept.settings import BUILT_IN_BUNDLES
from tests.photos import draw_marker, encode_photo

DATA = encode_photo(draw_marker((60, 90), (20, 30), 14))
PIXELS = [name for name, method in METHODS.items() if method.pixels]


@pytest.fixture(scope="module")
def builtin(start: Callable[..., Any]) -> httpx.Client:
    return start().client


def asked(client: httpx.Client, **query: str) -> np.ndarray:
    answer = client.post("/cam", params={"layer": "image", "format": "npy", **query}, content=DATA)
    assert answer.status_code == 200, answer.text
    return np.load(BytesIO(answer.content))


@pytest.mark.parametrize("method", PIXELS)
@pytest.mark.parametrize(("model", "shape"), [("cifar10", (32, 32)), ("clothing", (384, 256))])
def test_every_method_of_pixels_gives_a_map_of_pixels(
    builtin: httpx.Client, method: str, model: str, shape: tuple[int, int]
) -> None:
    if (model, method) in {("clothing", "rise"), ("clothing", "smoothgrad")}:
        pytest.skip("seconds, and nothing that the others do not show")
    found = asked(builtin, model=model, method=method)
    assert found.shape == shape
    assert np.isfinite(found).all()
    assert found.any()


class Seen:
    """cifar10 at one photo and one class, asked in float64 where slopes are taken."""

    def __init__(self) -> None:
        self.network = Network(BUILT_IN_BUNDLES / "cifar10" / "1", "cpu", 1)
        self.layer = self.network.manifest.layer("image")
        rng = np.random.default_rng(1)
        self.pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((32, 32)))
        (self.row,) = self.network.run_trunk([TrunkInput(self.pixels, frozenset({"logits", "image"}))])
        self.seed = np.zeros(10, np.float32)
        self.seed[self.row["logits"].argmax()] = 1

    def y(self, A: np.ndarray) -> np.ndarray:
        seeds = np.repeat(self.seed[None], len(A), 0)
        return np.float64(self.network.run_tail(self.layer, self.row, A, seeds, ["logits"])["logits"]) @ self.seed

    def map(self, method: str) -> np.ndarray:
        def tail(ask: TailRequest) -> PassResult:
            seeds = np.repeat(self.seed[None], len(ask.activations), 0)
            found = self.network.run_tail(self.layer, self.row, ask.activations, seeds)
            return PassResult(found["logits"] @ self.seed, found["gradients"])

        scene = MethodInput(self.row["image"], self.pixels, 0.0, np.random.default_rng(0))
        return run_method(METHODS[method].run(scene), tail, lambda ask: pytest.fail("no need for the whole network"))


def test_the_image_is_what_the_network_takes() -> None:
    seen, how = Seen(), read_manifest(BUILT_IN_BUNDLES / "cifar10" / "1").preprocessing
    expected = ((seen.pixels - np.array(how.mean)) / np.array(how.std)).transpose(2, 0, 1)
    np.testing.assert_allclose(seen.row["image"], expected, atol=1e-5)
    np.testing.assert_allclose(seen.y(seen.row["image"][None]), seen.row["logits"] @ seen.seed, rtol=1e-5)


def test_saliency_of_a_pixel_is_its_steepest_slope() -> None:
    seen = Seen()
    A, saliency = seen.row["image"], seen.map("saliency")
    for place in np.argsort(-saliency.ravel())[:3]:
        i, j = divmod(int(place), 32)
        moved = np.repeat(A[None], 6, 0)
        for k in range(3):
            moved[2 * k, k, i, j] += 1e-2
            moved[2 * k + 1, k, i, j] -= 1e-2
        y = seen.y(moved)
        assert np.abs((y[::2] - y[1::2]) / 2e-2).max() == pytest.approx(saliency[i, j], rel=0.05)


def test_integrated_gradients_of_the_pixels_add_up_to_what_the_image_changed() -> None:
    seen = Seen()
    A = seen.row["image"]
    y, nothing = seen.y(np.stack([A, 0 * A]))
    assert seen.map("integrated_gradients").sum() == pytest.approx(y - nothing, rel=0.01)


def test_what_weighs_features_is_refused_with_the_reason(builtin: httpx.Client) -> None:
    layers = {layer["name"]: layer for layer in builtin.get("/models/cifar10").json()["layers"]}
    assert layers["image"]["methods"] == PIXELS
    assert set(layers["image"]["unavailable_methods"]) == set(METHODS) - set(PIXELS)
    answer = builtin.post("/cam?layer=image&model=cifar10", content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (422, "method_unavailable")
    assert "saliency" in answer.json()["detail"]


def test_a_sheet_of_methods_shows_those_of_pixels(builtin: httpx.Client) -> None:
    answer = builtin.post("/cam?layer=image&model=cifar10&view=sheet&by=methods", content=DATA)
    assert Image.open(BytesIO(answer.content)).width > 2 * 60
