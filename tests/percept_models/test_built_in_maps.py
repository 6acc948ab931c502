"""Percept's maps of the built-in bundles against pytorch-grad-cam on the same torch weights."""

import numpy as np
import pytest
import torch

from percept.explain.maps import GRADIENT_METHODS, normalize
from percept.imaging.geometry import compute_geometry, project_to_photo
from percept.imaging.preprocess import prepare
from percept.runtime.network import Network, TrunkInput
from percept.settings import BUILT_IN_BUNDLES
from percept.tasks.table import TASKS
from percept_models.export.bundle_writer import golden_input
from percept_models.training.bundles import reference_network
from tests.percept_models.grad_cam_reference import rescale, run_grad_cam
from tests.photos import draw_marker

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
    folder = BUILT_IN_BUNDLES / request.param / "1"
    return Network(folder, "cpu", 1), reference_network(folder)


def pictures(network: Network) -> list[np.ndarray]:
    rule = network.manifest.preprocessing
    photo = draw_marker((320, 240), (150, 90), 50)
    return [prepare(photo, compute_geometry(photo.size, rule), rule), *(golden_input(rule, seed)[0] for seed in (1, 2))]


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
            row = network.run_trunk([TrunkInput(pixels, network.outputs_for_gradients(layer))])[0]
            seed = task.seed(manifest, row["logits"], task.targets(manifest, row["logits"], None)[0], None)
            g = network.compute_gradients(layer, row, seed)
            expected = run_grad_cam(torch_network, name, normalised(network, pixels), seed, NAMES[method])
            assert relative(row[name], expected.activations) < 1e-5
            assert relative(g, expected.gradients) < 1e-5
            heat = normalize(GRADIENT_METHODS[method](row[name], g))
            view = compute_geometry(expected.final.shape[::-1], manifest.preprocessing)
            assert np.abs(rescale(project_to_photo(heat, view)) - expected.final).max() < 1e-4
