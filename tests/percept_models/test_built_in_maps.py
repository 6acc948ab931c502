"""Heatmaps of the built-in bundles are those of pytorch-grad-cam on the same torch weights."""

import numpy as np
import pytest
import torch
from torch import nn

from percept.bundle.preprocessing import Preprocessing
from percept.explain.maps import normalize
from percept.imaging.geometry import compute_geometry, project_to_photo
from percept.imaging.preprocess import prepare
from percept.runtime.network import Network, TrunkInput
from percept.settings import BUILT_IN_BUNDLES
from percept.tasks.table import TASKS
from percept_models.export.bundle_writer import golden_input
from percept_models.training.bundles import reference_network
from percept_models.verify.checks import difference
from tests.method_runs import GRADIENT_METHODS
from tests.percept_models.grad_cam_reference import GRADIENT_CLASSES, MAP_LIMIT, rescale, run_grad_cam
from tests.photos import draw_marker

LAYERS = {"cifar10": ["stage2", "stage1"], "clothing": ["merge", "stage4", "smooth1"]}


@pytest.fixture(scope="module", params=LAYERS)
def networks(request: pytest.FixtureRequest) -> tuple[Network, nn.Module]:
    """A built-in bundle as the server runs it, and its torch network."""
    folder = BUILT_IN_BUNDLES / request.param / "1"
    return Network(folder, "cpu", 1), reference_network(folder)


def images(preprocessing: Preprocessing) -> list[np.ndarray]:
    """A photo and two random images as pixels uint8 [H,W,3]."""
    photo = draw_marker((320, 240), (150, 90), 50)
    prepared = prepare(photo, compute_geometry(photo.size, preprocessing), preprocessing)
    return [prepared, *(golden_input(preprocessing, seed)[0] for seed in (1, 2))]


def normalized(preprocessing: Preprocessing, pixels: np.ndarray) -> torch.Tensor:
    """The torch network's input [1,3,H,W]."""
    x = (torch.from_numpy(pixels.copy()).float() - torch.tensor(preprocessing.mean)) / torch.tensor(preprocessing.std)
    return x.permute(2, 0, 1)[None]


@pytest.mark.parametrize("method", GRADIENT_CLASSES)
def test_maps_equal_pytorch_grad_cam(networks: tuple[Network, nn.Module], method: str) -> None:
    """Activations, gradients and final map."""
    network, torch_network = networks
    manifest, preprocessing = network.manifest, network.manifest.preprocessing
    task = TASKS[manifest.task]
    for name in LAYERS[manifest.name]:
        layer = manifest.layer(name)
        assert layer
        for pixels in images(preprocessing):
            (outputs,) = network.run_trunk([TrunkInput(pixels, network.outputs_for_gradients(layer))])
            logits = outputs["logits"]
            seed = task.seed(manifest, logits, task.targets(manifest, logits, None)[0], None)
            g = network.compute_gradients(layer, outputs, seed)
            x = normalized(preprocessing, pixels)
            expected = run_grad_cam(torch_network, name, x, seed, GRADIENT_CLASSES[method])
            assert difference(outputs[name], expected.activations) < 1e-5
            assert difference(g, expected.gradients) < 1e-5
            heat = normalize(GRADIENT_METHODS[method](outputs[name], g))
            geometry = compute_geometry(expected.final.shape[::-1], preprocessing)
            assert np.abs(rescale(project_to_photo(heat, geometry)) - expected.final).max() < MAP_LIMIT
