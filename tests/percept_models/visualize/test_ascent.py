"""Images found by gradients: that the gradients are right, and that the images are what they are said to be."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from percept.bundle.manifest import read
from percept_models.visualize.ascent import Response, Through, invert, maximise, noise
from percept_models.visualize.canvas import FAINT, NATURAL, Canvas, moved
from percept_models.visualize.command import choice
from tests.percept_models.networks import HOW, bundle

LAYERS = ("image", "stem", "stage1", "stage2")


def response(folder: Path, layer: str, size: tuple[int, int] = (HOW.height, HOW.width)) -> Response:
    """A layer of a bundle as a function of pictures."""
    manifest = read(folder)
    found = manifest.layer(layer)
    assert found
    return Response(onnx.load(folder / manifest.trunk), found, manifest.preprocessing, size)


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize("layer", ["stem", "stage2"])
def test_a_found_image_excites_its_channel_more_than_any_noise(tmp_path: Path, layer: str, channels: str) -> None:
    """Measured on the rounded pixels by the trunk itself, whatever the order of the network's channels."""
    asked = response(
        bundle(tmp_path, layers=LAYERS, preprocessing=HOW.model_copy(update={"channels": channels})), layer
    )
    chosen = choice(asked, 4)
    found = maximise(asked, chosen, 48)
    assert found.dtype == np.uint8
    assert found.shape == (4, HOW.height, HOW.width, 3)
    excited = asked.means(found)[range(4), chosen]
    others = asked.means(noise(asked.size))[:, chosen]
    assert (excited > others.max(0) + 2 * others.std(0)).all()


@pytest.mark.parametrize("kind", ["excitement", "distance"])
def test_the_gradient_of_the_free_numbers_is_the_slope(tmp_path: Path, kind: str) -> None:
    """Through normalisation, sigmoid, colours and Fourier transform, from what ONNX Runtime says of the image."""
    smooth = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Sigmoid())
    network = nn.Sequential(smooth, nn.Flatten(), nn.LazyLinear(5))
    network(torch.zeros(1, 3, HOW.height, HOW.width))
    folder = bundle(tmp_path, network, layers=("image", "0"), cam_layer="0")
    asked = response(folder, "0")
    ask = asked.excitement([2]) if kind == "excitement" else asked.distance(asked.activations(noise(asked.size)[:1]))
    canvas, shaking = Canvas(1, asked.size, contrast=NATURAL), torch.Generator()

    def loss() -> torch.Tensor:
        return Through.apply(asked.normalised(moved(canvas(), shaking.manual_seed(3))), ask).sum()

    loss().backward()
    way = canvas.z.grad.detach().clone()
    way /= way.norm()
    expected, step = float((way * canvas.z.grad).sum()), 0.05
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            canvas.z += sign * step * way
            values.append(float(loss()))
            canvas.z -= sign * step * way
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected, rel=0.02)


def test_an_early_layer_keeps_more_of_a_photo_than_a_deep_one(tmp_path: Path) -> None:
    """What is rebuilt resembles the photo, and resembles it less the deeper the layer."""
    folder = bundle(tmp_path, layers=LAYERS)
    photo = np.asarray(Image.fromarray(noise((8, 6))[0]).resize((HOW.width, HOW.height), Image.Resampling.BICUBIC))
    alike, errors = [], []
    for layer in ("stem", "stage2"):
        found, error = invert(response(folder, layer), photo, 100)
        alike.append(np.corrcoef(found.ravel(), photo.ravel())[0, 1])
        errors.append(error)
    assert alike[0] > 0.7
    assert alike[0] > alike[1] + 0.2
    assert max(errors) < 0.02


def test_a_cell_that_is_wrongly_asleep_is_woken(tmp_path: Path) -> None:
    """Behind a ReLU that passes nothing there is still a slope: that of the matching loss."""
    network = nn.Sequential(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()), nn.Flatten(), nn.LazyLinear(5))
    network[0][0].weight.data[:] = 1
    network[0][0].bias.data[:] = -1
    network(torch.zeros(1, 3, HOW.height, HOW.width))
    asked = response(bundle(tmp_path, network, layers=("image", "0"), cam_layer="0"), "0")
    A = np.ones((1, 2, HOW.height, HOW.width), np.float32)
    loss, gradient = asked.distance(A)(np.zeros((1, 3, HOW.height, HOW.width), np.float32))
    assert loss == pytest.approx([1])
    assert (gradient < 0).all()


def test_noise_has_the_spectrum_of_photos_and_a_canvas_begins_grey() -> None:
    """Low frequencies dominate; the first canvas differs little from grey."""
    spectrum = np.abs(np.fft.fft2(noise((64, 64)).mean(3))).mean(0)
    assert spectrum[0, 2] > 4 * spectrum[0, 16] > 8 * spectrum[0, 32]
    with torch.no_grad():
        assert (Canvas(2, (32, 48), contrast=FAINT)() - 127.5).abs().max() < 64


def test_a_moved_picture_is_the_same_one_a_little_elsewhere() -> None:
    """Turns keep their angle in pictures that are not square: a disc stays a disc."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(128.0), indexing="ij")
    disc = (torch.hypot(y - 31.5, x - 63.5) < 16).float().expand(1, 3, -1, -1)
    for seed in range(5):
        found = moved(disc, torch.Generator().manual_seed(seed))[0, 0] > 0.5
        tall, wide = (int(found.any(axis).sum()) for axis in (1, 0))
        assert abs(tall - wide) <= 2
        assert 26 <= tall <= 38
