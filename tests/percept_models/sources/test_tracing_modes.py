"""The functions that replace those of torch while a network is traced."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from percept.errors import BundleError
from percept_models.sources.tracing_modes import (
    ActivationInputs,
    Exportable,
    adaptive_average_pool,
    average_pool,
    before_activations,
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, (6, None), [1, 4]])
@pytest.mark.parametrize("n", [2, 5, 9])
def test_adaptive_pooling_equals_torch(n: int, size: int | tuple[int, int | None]) -> None:
    """Also where windows overlap, and where the output has more cells than the input."""
    x = torch.randn(2, 3, n, n + 1)
    torch.testing.assert_close(adaptive_average_pool(x, size), F.adaptive_avg_pool2d(x, size))


@pytest.mark.parametrize("options", [{}, {"padding": 1}, {"stride": 1}, {"kernel_size": (3, 2)}, {"ceil_mode": True}])
@pytest.mark.parametrize("divisor", [None, 3])
def test_average_pooling_keeps_its_divisor(options: dict[str, Any], divisor: int | None) -> None:
    x = torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(0))
    arguments = {"kernel_size": 3, "divisor_override": divisor, **options}
    torch.testing.assert_close(average_pool(x, **arguments), F.avg_pool2d(x, **arguments))


def test_rrelu_equals_torch_in_inference() -> None:
    module, x = nn.RReLU(0.1, 0.5).eval(), torch.linspace(-2, 2, 9)
    with Exportable():
        y = module(x)
    torch.testing.assert_close(y, module(x))
    with Exportable(), pytest.raises(BundleError, match="rrelu with training=True"):
        F.rrelu(x, training=True)


Y = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
# What a network does after its logits `Y` → the operators, and what the logits become by the reshaping alone.
ENDS = {
    "module": (lambda y: nn.Softmax(1)(y), ["Softmax"], lambda y: y),
    "method": (lambda y: y.log_softmax(1), ["LogSoftmax"], lambda y: y),
    "in place": (lambda y: y.clone().sigmoid_(), ["Sigmoid"], lambda y: y),
    "reshaped": (
        lambda y: y.sigmoid().permute(0, 2, 3, 1)[:, None],
        ["Sigmoid"],
        lambda y: y.permute(0, 2, 3, 1)[:, None],
    ),
    "argmax": (lambda y: y.argmax(1, keepdim=True).squeeze(1).float(), ["ArgMax"], lambda y: y),
    "greatest": (lambda y: y.max(dim=1)[1], ["ArgMax"], lambda y: y),
    "argmax of classes last": (
        lambda y: y.permute(0, 2, 3, 1).softmax(-1).argmax(-1),
        ["ArgMax", "Softmax"],
        lambda y: y,
    ),
    "softmax of sigmoids": (lambda y: y.sigmoid().softmax(1), ["Softmax"], torch.sigmoid),
}


@pytest.mark.parametrize("case", ENDS)
def test_logits_are_found_before_activations(case: str) -> None:
    end, operators, reshaped = ENDS[case]
    with ActivationInputs():
        output = end(Y)
    torch.testing.assert_close(before_activations(output, operators), reshaped(Y))


def test_activation_that_is_followed_by_arithmetic_is_not_found() -> None:
    with ActivationInputs():
        output = 1 - Y.sigmoid()
    with pytest.raises(BundleError, match="the Sigmoid at the end of the network is hidden"):
        before_activations(output, ["Sigmoid"])
