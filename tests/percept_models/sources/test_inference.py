"""Torch networks that draw random numbers or mix the images of a batch are refused by name; others are not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from percept.errors import BundleError
from percept_models.sources.inference import check_inference
from tests.percept_models.networks import PREPROCESSING, Classifier


class Stage(nn.Module):
    """A convolution, a stage that the test chooses, global average pooling and a linear layer."""

    def __init__(self, forward: Callable[["Stage", Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm2d(8)
        self.tracked = nn.BatchNorm2d(8, track_running_stats=False) if forward is untracked else None
        self.head = nn.Linear(8, 5)
        self.stage = forward

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.head(self.stage(self, self.conv(x)).mean((2, 3)))


class Centred(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return x - x.mean(0, keepdim=True)


def untracked(network: Stage, x: Tensor) -> Tensor:
    assert network.tracked is not None
    return network.tracked(x)


def trained_dropout(network: Stage, x: Tensor) -> Tensor:
    return network.drop.train()(x)


def trained_norm(network: Stage, x: Tensor) -> Tensor:
    return network.norm.train()(x)


REFUSED = {
    "untracked": (Stage(untracked), r"'tracked' \(BatchNorm2d\) has no running statistics.*InstanceNorm2d"),
    "dropout in training mode": (Stage(trained_dropout), r"'drop' \(Dropout\) is in training mode.*another result"),
    "batch norm in training mode": (Stage(trained_norm), r"'norm' \(BatchNorm2d\) is in training mode.*mixes"),
    "functional dropout": (
        Stage(lambda _, x: F.dropout(x, 0.5, training=True)),
        r"network's forward gives another result.*training=self\.training",
    ),
    "functional batch norm": (
        Stage(lambda _, x: F.batch_norm(x, None, None, training=True)),
        r"network's forward mixes the images.*running statistics",
    ),
    "module that mixes": (
        nn.Sequential(nn.Conv2d(3, 5, 3), Centred(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        r"'1' \(Centred\) mixes the images",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_network_that_is_unfit_is_refused_by_name(case: str) -> None:
    network, message = REFUSED[case]
    with pytest.raises(BundleError, match=message):
        check_inference(network.eval(), PREPROCESSING)


FIT = {
    "classifier": Classifier(),
    "batch norm": Stage(lambda network, x: network.norm(x)),
    "dropout": Stage(lambda network, x: network.drop(x)),
    "instance norm": Stage(lambda _, x: F.instance_norm(x)),
    "instance norm module": nn.Sequential(nn.InstanceNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
}


@pytest.mark.parametrize("case", FIT)
def test_network_that_is_fit_passes(case: str) -> None:
    check_inference(FIT[case].eval(), PREPROCESSING)


def test_network_that_amplifies_rounding_passes() -> None:
    """In float32 rounding decides each sign, so that images in a batch differ; in float64 they do not."""

    class Sharp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(12):
                x = torch.sin(40 * x)
            return x.mean((2, 3))

    check_inference(nn.Sequential(nn.Conv2d(3, 8, 9), Sharp()).eval(), PREPROCESSING)
