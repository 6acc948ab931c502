"""The pooling that replaces torch's adaptive average pooling."""

import pytest
import torch
from torch.nn import functional as F

from percept_models.sources.tracing_modes import adaptive_average_pool


@pytest.mark.parametrize("size", [1, 2, 3, 7, (6, None), [1, 4]])
@pytest.mark.parametrize("n", [2, 5, 9])
def test_adaptive_pooling_equals_torch(n: int, size: int | tuple[int, int | None]) -> None:
    """Also where windows overlap, and where the output has more cells than the input."""
    x = torch.randn(2, 3, n, n + 1)
    torch.testing.assert_close(adaptive_average_pool(x, size), F.adaptive_avg_pool2d(x, size))
