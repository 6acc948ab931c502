"""Percept's maps of the built-in bundles against pytorch-grad-cam on the same torch weights."""

import numpy as np
import pytest
import torch

from percept.explain.maps import GRADIENT_METHODS, unit
from percept.imaging.decode import geometry, prepare, spread
from percept.runtime.network import Look, Network
from percept.settings import BUILT_IN
from percept.tasks.table import TASKS
from percept_models.export.bundle_writer import golden
from percept_models.training.recipes import reference
from tests.percept_models.torch_gradients import explain, scaled
from tests.photos import marked

NAMES = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
}
LAYERS = {"cifar10": ["stage2", "stage1"], "clothing": ["merge", "stage4", "smooth1"]}
CASES = [(bundle, layer) for bundle, layers in LAYERS.items() for layer in layers]


@pytest.fixture(scope="module", params=LAYERS)
def opened(request: pytest.FixtureRequest):
    folder = BUILT_IN / request.param / "1"
    return Network(folder, "cpu", 1), reference(folder)


def pictures(network: Network) -> list[np.ndarray]:
    rule = network.manifest.preprocessing
    photo = marked((320, 240), (150, 90), 50)
    return [prepare(photo, geometry(photo.size, rule), rule), *(golden(rule, seed)[0] for seed in (1, 2))]


def normalised(network: Network, pixels: np.ndarray) -> torch.Tensor:
    rule = network.manifest.preprocessing
    x = (torch.from_numpy(pixels.copy()).float() - torch.tensor(rule.mean)) / torch.tensor(rule.std)
    return x.permute(2, 0, 1)[None]


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("method", NAMES)
def test_maps_are_those_of_the_reference(opened, method: str) -> None:
    network, torch_network = opened
    manifest = network.manifest
    task = TASKS[manifest.task]
    for name in LAYERS[manifest.name]:
        layer = manifest.layer(name)
        for pixels in pictures(network):
            row = network.forward([Look(pixels, network.cut(layer))])[0]
            seed = task.seed(manifest, row["logits"], task.targets(manifest, row["logits"], None)[0], None)
            g = network.gradients(layer, row, seed)
            expected = explain(torch_network, name, normalised(network, pixels), seed, NAMES[method])
            assert relative(row[name], expected.activations) < 1e-5
            assert relative(g, expected.gradients) < 1e-5
            heat = unit(GRADIENT_METHODS[method](row[name], g))
            view = geometry(expected.final.shape[::-1], manifest.preprocessing)
            assert np.abs(scaled(spread(heat, view)) - expected.final).max() < 1e-4
