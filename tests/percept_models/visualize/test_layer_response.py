"""The objectives of feature visualization: their gradients are the slopes of their losses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from percept_models.visualize.layer_response import noise_images
from percept_models.visualize.optimization import ObjectiveFunction
from percept_models.visualize.parameterization import NATURAL, ImageParameterization
from percept_models.visualize.regularization import random_transform
from tests.percept_models.networks import export_bundle
from tests.percept_models.visualize.conftest import SIZE, layer_response


def export_layer(out: Path, layer: nn.Module) -> Path:
    """Export a classifier whose only layer, `0`, is the given module."""
    network = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(5))
    network(torch.zeros(1, 3, *SIZE))
    return export_bundle(out, network, layers=("image", "0"), cam_layer="0")


@pytest.mark.parametrize("kind", ["channel", "inversion"])
def test_gradient_of_the_parameters_is_the_slope(tmp_path: Path, kind: str) -> None:
    """Through normalization, transformation, sigmoid, colours and Fourier transform."""
    response = layer_response(export_layer(tmp_path, nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Sigmoid())), "0")
    target = response.activations(noise_images(response.image_shape)[:1])
    objective = response.channel_objective([2]) if kind == "channel" else response.inversion_objective(target)
    images, generator = ImageParameterization(1, response.image_shape, contrast=NATURAL), torch.Generator()

    def loss() -> torch.Tensor:
        x = response.normalized(random_transform(images(), generator.manual_seed(3)))
        return ObjectiveFunction.apply(x, objective).sum()

    (gradient,) = torch.autograd.grad(loss(), images.z)
    direction = gradient / gradient.norm()
    step = 0.05
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            images.z.add_(sign * step * direction)
            losses.append(float(loss()))
            images.z.sub_(sign * step * direction)
    slope = (losses[0] - losses[1]) / (2 * step)
    assert slope == pytest.approx(float((direction * gradient).sum()), rel=0.02)


def test_inversion_has_a_gradient_at_inactive_cells(tmp_path: Path) -> None:
    """Behind a ReLU that is zero everywhere: the gradient is that of the matching loss."""
    layer = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
    nn.init.constant_(layer.get_parameter("0.weight"), 1)
    nn.init.constant_(layer.get_parameter("0.bias"), -1)
    response = layer_response(export_layer(tmp_path, layer), "0")
    objective = response.inversion_objective(np.ones((1, 2, *SIZE), np.float32))
    loss, gradient = objective(np.zeros((1, 3, *SIZE), np.float32))
    assert loss == pytest.approx([1])
    assert (gradient < 0).all()


def test_noise_images_have_the_spectrum_of_photos() -> None:
    spectrum = np.abs(np.fft.fft2(noise_images((64, 64, 3)).mean(3))).mean(0)
    assert spectrum[0, 2] > 4 * spectrum[0, 16] > 8 * spectrum[0, 32]
