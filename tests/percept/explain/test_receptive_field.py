"""The influence of pixels on a cell against autograd and changed pixels, and the box of an influence."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from percept.bundle.manifest import IMAGE, Layer
from percept.explain.receptive_field import central_box, measure_influence
from percept.imaging.geometry import compute_geometry
from percept.runtime.network import Network, TrunkInput
from percept.settings import BUILT_IN_BUNDLES
from percept.tasks.input_image import InputImage
from percept.tasks.table import TASKS
from percept_models.sources.trunk import Trunk
from percept_models.training.bundles import reference_network


class BuiltInNetwork:
    """A built-in network and a smooth image of its input size."""

    def __init__(self, name: str) -> None:
        self.folder = BUILT_IN_BUNDLES / name / "1"
        self.network = Network(self.folder, "cpu", 1)
        self.manifest = self.network.manifest
        rule = self.manifest.preprocessing
        noise = np.random.default_rng(2).integers(0, 256, (6, 5, 3), np.uint8)
        photo = Image.fromarray(noise).resize((rule.width, rule.height), Image.Resampling.BICUBIC)
        self.pixels = np.asarray(photo)
        model: Any = self  # it has the attributes of a model that are used: network and manifest
        geometry, task = compute_geometry(photo.size, rule), TASKS[self.manifest.task]
        self.image = InputImage("", model, task, photo, geometry, self.pixels, lambda: photo)

    def run_trunk(self, pixels: np.ndarray, *layers: str) -> dict[str, np.ndarray]:
        return self.network.run_trunk([TrunkInput(pixels, frozenset({"logits", IMAGE, *layers}))])[0]

    def layer(self, name: str) -> Layer:
        layer = self.manifest.layer(name)
        assert layer is not None
        return layer

    def influence(self, name: str, cell: tuple[int, int]) -> np.ndarray:
        return measure_influence(self.image, self.run_trunk(self.pixels, name), self.layer(name), cell)


@pytest.mark.parametrize(
    ("model", "layer", "cell"),
    [("cifar10", "stem", (0, 31)), ("cifar10", "stage1", (9, 4)), ("clothing", "stage2", (20, 11))],
)
def test_influence_is_the_gradient_at_the_image(model: str, layer: str, cell: tuple[int, int]) -> None:
    network = BuiltInNetwork(model)
    module = Trunk(reference_network(network.folder), network.manifest.preprocessing, (IMAGE, layer))
    _, image, tap = module(torch.tensor(network.pixels[None]))
    (g,) = torch.autograd.grad(tap[0, :, *cell].sum(), image)
    expected = g[0].pow(2).sum(0).sqrt().numpy()
    assert np.abs(network.influence(layer, cell) - expected).max() < 1e-4 * expected.max()


@pytest.mark.parametrize(("layer", "cell"), [("stem", (3, 30)), ("stage1", (8, 8))])
def test_pixels_without_influence_do_not_change_the_cell(layer: str, cell: tuple[int, int]) -> None:
    """No pixel outside the theoretical field has influence, and changing all of them leaves the cell as it is."""
    network = BuiltInNetwork("cifar10")
    influence, tap = network.influence(layer, cell), network.layer(layer)
    changed = np.where((influence == 0)[..., None], 255 - network.pixels, network.pixels)
    field = tap.receptive_field
    assert field is not None
    reach = [
        (start + i * stride - size / 2, start + i * stride + size / 2)
        for start, i, stride, size in zip(field.start, cell, tap.stride, field.size, strict=True)
    ]
    rows, columns = np.nonzero(influence)
    assert rows.min() >= reach[0][0] - 1e-6
    assert rows.max() < reach[0][1]
    assert columns.min() >= reach[1][0] - 1e-6
    assert columns.max() < reach[1][1]
    outside = np.ones_like(influence, bool)
    outside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = False
    changed = np.where(outside[..., None], changed, network.pixels)
    before, after = (network.run_trunk(pixels, layer)[layer][:, *cell] for pixels in (network.pixels, changed))
    assert outside.any()
    np.testing.assert_allclose(after, before, atol=1e-5)


def box_of(influence: np.ndarray) -> tuple[float, float, float, float]:
    box = central_box(influence)
    assert box is not None
    return box


def test_central_box_leaves_out_the_same_share_on_each_side() -> None:
    even = np.ones((40, 100), np.float32)
    np.testing.assert_allclose(box_of(even), (2.275, 0.91, 97.725, 39.09), atol=1e-4)
    y, x = np.mgrid[:201, :201]
    normal = np.exp(-((x - 80) ** 2) / 200 - (y - 120) ** 2 / 450).astype(np.float32)
    np.testing.assert_allclose(box_of(normal), (80.5 - 20, 120.5 - 30, 80.5 + 20, 120.5 + 30), atol=0.1)
    one = np.zeros((5, 7), np.float32)
    one[1, 4] = 3
    left, top, right, bottom = box_of(one)
    assert 4 <= left < right <= 5
    assert 1 <= top < bottom <= 2
    assert central_box(0 * one) is None
