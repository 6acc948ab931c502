"""A bundle against its torch network, also where rounding alone makes torch's own gradients jump."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from percept_models.export.bundle_writer import golden_input
from percept_models.graph.execution import run
from percept_models.graph.reader import Array
from percept_models.sources.trunk import PIXELS, Trunk, trace
from percept_models.verify.bundle import verify_bundle
from percept_models.verify.checks import GRADIENT_LIMIT, JUMP_LIMIT
from percept_models.verify.torch_network import ROUNDING_NOTE
from tests.percept_models.networks import PREPROCESSING, export_bundle


class Shifted(nn.Module):
    """A classifier that subtracts a constant [C,h,w] from the inputs of its ReLU.

    Torch and ONNX Runtime approximate the sigmoid by different formulas, so on every CPU they round it differently. The
    stem only copies planes, which nothing rounds.
    """

    def __init__(self, shift: Array) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 1)
        self.stem.weight.data = torch.eye(3).repeat(3, 1)[:8, :, None, None].clone()
        self.stem.bias.data.zero_()
        self.mix = nn.Sequential(nn.Conv2d(8, 64, 1), nn.Sigmoid())
        self.shift = nn.Parameter(torch.from_numpy(shift))
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.head(torch.relu(self.mix(self.stem(x)) - self.shift).mean((2, 3)))


class Product(nn.Module):
    """Multiplies two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Compute the output."""
        return x * y


class Scaled(nn.Module):
    """A classifier that hands a parameter to a module, as class-attention networks do with the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.product, self.head = nn.Conv2d(3, 8, 3), Product(), nn.Linear(8, 5)
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        x = self.stem(x)
        return self.head(self.product(x, self.scale.expand(x.shape[0], -1, -1, -1)).mean((2, 3)))


@pytest.fixture
def images() -> Array:
    return np.concatenate([golden_input(PREPROCESSING, seed) for seed in range(1, 9)])


@pytest.fixture
def network(images: Array) -> Shifted:
    """A network that moves ReLU inputs to where 0 is between torch's and ONNX Runtime's rounding.

    The lesser of both numbers becomes 0, the greater stays positive. Each image has some rows of the shift to itself.
    """
    plain = Shifted(np.zeros((1, 1, 1), np.float32))
    ours = run(trace(plain, PREPROCESSING, ["mix"]), {PIXELS: images})["mix"]
    with torch.no_grad():
        theirs = Trunk(plain, PREPROCESSING, ["mix"])(torch.from_numpy(images))[1].numpy()
    assert (ours != theirs).mean((1, 2, 3)).min() > 0.01
    rows = np.arange(PREPROCESSING.height)
    owner = rows * len(images) // len(rows)
    return Shifted(np.minimum(ours, theirs)[owner, :, rows].swapaxes(0, 1))


@pytest.fixture
def bundle(tmp_path: Path, network: Shifted) -> Path:
    return export_bundle(tmp_path, network, layers=("stem", "mix"), cam_layer="mix")


def test_limit_follows_the_jumps_of_torch(bundle: Path, network: Shifted, images: Array) -> None:
    """Not at `mix`, because no rounding is between this layer and the ReLU."""
    checks = {check.name: check for check in verify_bundle(bundle, network, images)}
    assert checks["stem gradients"].error > GRADIENT_LIMIT
    assert checks["stem gradients"].note == ROUNDING_NOTE
    assert checks["stem gradients"].limit > 100 * GRADIENT_LIMIT
    assert checks["stem gradients"].limit <= JUMP_LIMIT
    assert checks["mix gradients"].limit == GRADIENT_LIMIT


def test_limit_stays_on_images_without_jumps(bundle: Path, network: Shifted) -> None:
    checks = {check.name: check for check in verify_bundle(bundle, network)}
    assert checks["stem gradients"].limit == GRADIENT_LIMIT


def test_network_that_hands_a_parameter_to_a_module_is_verified(tmp_path: Path) -> None:
    network = Scaled()
    checks = verify_bundle(export_bundle(tmp_path, network, layers=("stem",), cam_layer="stem"), network)
    assert {check.name for check in checks} >= {"logits", "stem gradients"}
    assert all(check.passed for check in checks)


class Detached(Scaled):
    """A classifier whose backbone gets no gradients, as where only its head was trained."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.head(self.stem(x).detach().mean((2, 3)))


def test_layer_without_gradients_in_torch_is_named(tmp_path: Path) -> None:
    network = Detached()
    checks = verify_bundle(export_bundle(tmp_path, network, layers=("stem",), cam_layer="stem"), network)
    (failed,) = (check for check in checks if not check.passed)
    assert failed.note.startswith("torch has no gradients at the layer 'stem': let the network neither detach its maps")
