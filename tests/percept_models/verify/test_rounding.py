"""Verification where a network amplifies rounding or loses digits, and where an optimizer is faulty."""

from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from percept.runtime import session
from percept_models.verify.bundle import verify_bundle
from percept_models.verify.checks import GRADIENT_LIMIT, LIMIT, ROUNDING_LIMIT, Check, difference, mean_difference
from percept_models.verify.table import format_checks
from percept_models.verify.torch_network import ROUNDING_NOTE
from tests.percept_models.networks import export_bundle


class Network(nn.Module):
    """A convolution, a stage that a subclass defines, global average pooling and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.mix = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.head(self.stage(self.mix(self.stem(x))).mean((2, 3)))

    def stage(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Chaotic(Network):
    """Rounding grows twentyfold eight times, to the magnitude of the numbers themselves."""

    def stage(self, x: Tensor) -> Tensor:
        for _ in range(4):
            x = torch.sin(30 * x)
        return x


class Cancelling(Network):
    """Torch's float32 loses five digits where it subtracts, ONNX Runtime's too."""

    def stage(self, x: Tensor) -> Tensor:
        return ((x + 3e3) - 3e3).relu()


class Padded(Network):
    """Zeros around negative numbers, before max pooling."""

    def stage(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(-x.abs() - 1, (1, 1, 1, 1)), 3, 2)


def verify(folder: Path, network: nn.Module | None = None) -> dict[str, Check]:
    return {check.name: check for check in verify_bundle(folder, network)}


def exported(folder: Path, network: nn.Module) -> Path:
    return export_bundle(folder, network, layers=("stem", "mix"), cam_layer="mix")


def failed(checks: dict[str, Check]) -> list[str]:
    return [name for name, check in checks.items() if not check.passed]


def test_network_that_amplifies_rounding_is_judged_by_its_conditioning(tmp_path: Path) -> None:
    folder = exported(tmp_path, Chaotic())
    checks = verify(folder, Chaotic())
    assert not failed(checks), format_checks(list(checks.values()))
    assert checks["logits"].note == ROUNDING_NOTE
    assert LIMIT < checks["logits"].limit <= ROUNDING_LIMIT
    assert checks["mix activations"].limit == LIMIT


def test_other_weights_of_such_a_network_are_found(tmp_path: Path) -> None:
    other = Chaotic()
    other.stem.weight.data *= 1.001
    assert "stem activations" in failed(verify(exported(tmp_path, Chaotic()), other))


def test_network_that_loses_digits_is_compared_with_float64(tmp_path: Path) -> None:
    checks = verify(exported(tmp_path, Cancelling()), Cancelling())
    assert not failed(checks), format_checks(list(checks.values()))
    assert checks["stem gradients"].error > GRADIENT_LIMIT or checks["logits"].error > 1e-6


def test_fault_of_an_optimizer_is_found_without_a_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = exported(tmp_path, Padded())
    assert not failed(verify(folder))
    monkeypatch.setattr(session, "FAULTY_OPTIMIZERS", ("none",))
    assert {"golden input", "logits without optimizers"} <= {*failed(verify(folder))}


def test_checks_are_reported_when_they_are_done(tmp_path: Path) -> None:
    reported: list[Check] = []
    assert verify_bundle(exported(tmp_path, Padded()), report=reported.append) == reported


def test_mean_difference_forgives_single_cells() -> None:
    """One cell of 10,000 that jumps by the greatest value counts little, an error everywhere in full."""
    expected = np.ones((1, 1, 100, 100), np.float32)
    one_cell = expected.copy()
    one_cell[0, 0, 3, 4] = 0
    assert difference(one_cell, expected) == 1
    assert mean_difference(one_cell, expected) == pytest.approx(0.01)
    assert mean_difference(1.3 * expected, expected) == pytest.approx(0.3)
    assert mean_difference(expected[:, :, :9], expected) == inf
    assert mean_difference(np.full_like(expected, np.nan), expected) == inf
