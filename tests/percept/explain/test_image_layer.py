"""Gradient methods at the layer `image` of a real network, against finite differences."""

import numpy as np
import pytest
from PIL import Image

from percept.bundle.integrity import read_manifest
from percept.explain.methods.protocol import MethodInput, PassResult, TailRequest
from percept.explain.methods.table import METHODS
from percept.runtime.network import Network, TrunkInput
from percept.settings import BUILT_IN_BUNDLES
from tests.method_runs import run_method


class ExplainedImage:
    """The model cifar10, one image and the seed of its top class."""

    def __init__(self) -> None:
        self.network = Network(BUILT_IN_BUNDLES / "cifar10" / "1", "cpu", 1)
        layer = self.network.manifest.layer("image")
        assert layer is not None
        self.layer = layer
        rng = np.random.default_rng(1)
        self.pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((32, 32)))
        [self.outputs] = self.network.run_trunk([TrunkInput(self.pixels, frozenset({"logits", "image"}))])
        self.seed = np.zeros(10, np.float32)
        self.seed[self.outputs["logits"].argmax()] = 1

    def y(self, A: np.ndarray) -> np.ndarray:
        seeds = np.repeat(self.seed[None], len(A), 0)
        return np.float64(self.network.run_tail(self.layer, self.outputs, A, seeds, ["logits"])["logits"]) @ self.seed

    def compute_map(self, method: str) -> np.ndarray:
        def run_tail(request: TailRequest) -> PassResult:
            seeds = np.repeat(self.seed[None], len(request.activations), 0)
            result = self.network.run_tail(self.layer, self.outputs, request.activations, seeds)
            return PassResult(result["logits"] @ self.seed, result["gradients"])

        inputs = MethodInput(self.outputs["image"], self.pixels, 0.0, np.random.default_rng(0))
        return run_method(
            METHODS[method].run(inputs), run_tail, lambda _: pytest.fail("requested a pass of the network")
        )


def test_image_layer_is_the_normalized_input() -> None:
    explained, preprocessing = ExplainedImage(), read_manifest(BUILT_IN_BUNDLES / "cifar10" / "1").preprocessing
    expected = ((explained.pixels - np.array(preprocessing.mean)) / np.array(preprocessing.std)).transpose(2, 0, 1)
    np.testing.assert_allclose(explained.outputs["image"], expected, atol=1e-5)
    np.testing.assert_allclose(
        explained.y(explained.outputs["image"][None]), explained.outputs["logits"] @ explained.seed, rtol=1e-5
    )


def test_saliency_at_the_image_equals_finite_differences() -> None:
    explained = ExplainedImage()
    A, saliency = explained.outputs["image"], explained.compute_map("saliency")
    for place in np.argsort(-saliency.ravel())[:3]:
        i, j = divmod(int(place), 32)
        moved = np.repeat(A[None], 6, 0)
        for k in range(3):
            moved[2 * k, k, i, j] += 1e-2
            moved[2 * k + 1, k, i, j] -= 1e-2
        y = explained.y(moved)
        assert np.abs((y[::2] - y[1::2]) / 2e-2).max() == pytest.approx(saliency[i, j], rel=0.05)


def test_integrated_gradients_at_the_image_are_complete() -> None:
    explained = ExplainedImage()
    A = explained.outputs["image"]
    y, y0 = explained.y(np.stack([A, 0 * A]))
    assert explained.compute_map("integrated_gradients").sum() == pytest.approx(y - y0, rel=0.01)
