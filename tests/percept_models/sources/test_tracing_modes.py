"""The functions that replace those of torch while a network is traced."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from percept.errors import BundleError
from percept_models.sources.tracing_modes import Exportable, adaptive_average_pool


@pytest.mark.parametrize("size", [1, 2, 3, 7, (6, None), [1, 4]])
@pytest.mark.parametrize("n", [2, 5, 9])
def test_adaptive_pooling_equals_torch(n: int, size: int | tuple[int, int | None]) -> None:
    """Also where windows overlap, and where the output has more cells than the input."""
    x = torch.randn(2, 3, n, n + 1)
    torch.testing.assert_close(adaptive_average_pool(x, size), F.adaptive_avg_pool2d(x, size))


def test_rrelu_is_the_leaky_relu_that_torch_computes_in_inference() -> None:
    module, x = nn.RReLU(0.1, 0.5).eval(), torch.linspace(-2, 2, 9)
    with Exportable():
        y = module(x)
    torch.testing.assert_close(y, module(x))
    with Exportable(), pytest.raises(BundleError, match="rrelu with training=True"):
        F.rrelu(x, training=True)
