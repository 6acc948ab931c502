"""Modes under which a torch network is run or traced: some of torch's functions are called otherwise.

`Apart` keeps tapped layers as they were; `AdaptivePooling` writes one pooling in a form that ONNX can follow.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class _Mode(TorchFunctionMode):
    """Calls what `act` says instead of a function of torch."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.act(function, args, dict(kwargs or {}))

    def act(self, function: Callable[..., Any], args: Sequence[Any], has: dict[str, Any]) -> Any:
        raise NotImplementedError


class Apart(_Mode):
    """Lets nothing overwrite a tensor that may be tapped, as `F.relu(x, inplace=True)` and `x += y` do.

    DenseNet and ResNet are full of them. Whether a network can do without is for the caller to check.
    """

    def act(self, function: Callable[..., Any], args: Sequence[Any], has: dict[str, Any]) -> Any:
        """Call the function, but not in place."""
        return OUT_OF_PLACE.get(function, function)(*args, **(has | {"inplace": False} if "inplace" in has else has))


OUT_OF_PLACE: Mapping[Callable[..., Any], Callable[..., Any]] = {
    Tensor.add_: torch.add,  # which is what `+=` calls
    Tensor.sub_: torch.sub,
    Tensor.mul_: torch.mul,
    Tensor.div_: torch.div,
}


class AdaptivePooling(_Mode):
    """Writes adaptive average pooling as what it is: the exporter would write it as arithmetic on indices."""

    def act(self, function: Callable[..., Any], args: Sequence[Any], has: dict[str, Any]) -> Any:
        """Call the function, or the pooling in its place."""
        return (adaptive_average if function is F.adaptive_avg_pool2d else function)(*args, **has)


def adaptive_average(input: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """`y = P x Q^T`: cell i of m averages the cells from floor(i n / m) to ceil((i + 1) n / m) of n."""
    asked = (output_size, output_size) if isinstance(output_size, int) else output_size
    sizes = (input.shape[-2], input.shape[-1])
    cells = [m or n for m, n in zip(asked, sizes, strict=True)]
    if cells == [1, 1]:
        return input.mean((-2, -1), keepdim=True)
    if not any(n % m for n, m in zip(sizes, cells, strict=True)):
        return F.avg_pool2d(input, [n // m for n, m in zip(sizes, cells, strict=True)])
    p, q = (_averages(n, m).to(input.dtype) for n, m in zip(sizes, cells, strict=True))
    return p @ (input @ q.T.contiguous())


def _averages(n: int, m: int) -> Tensor:
    """The matrix [m,n] that averages n cells into m."""
    begin, end = ([i * n // m for i in range(m)], [-(-(i + 1) * n // m) for i in range(m)])
    rows = [[(a <= j < b) / (b - a) for j in range(n)] for a, b in zip(begin, end, strict=True)]
    return torch.tensor(rows)
