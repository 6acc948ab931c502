"""Modes under which a torch network is run or traced: they replace calls of some of torch's functions.

`OutOfPlace` keeps tapped layers from being overwritten, `ActivationInputs` finds the logits before the last softmax,
and `Exportable` writes functions in operators that ONNX has.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from percept.errors import BundleError


class _Mode(TorchFunctionMode):
    """Calls `call` in the place of every function of torch."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.call(function, args, dict(kwargs or {}))

    def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError


class OutOfPlace(_Mode):
    """Runs in-place operations out of place, such as `F.relu(x, inplace=True)` and `x += y` in DenseNet and ResNet.

    They would overwrite a tensor that may be tapped. The caller checks that the network computes the same.
    """

    def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function, or its counterpart that is not in place."""
        if "inplace" in kwargs:
            kwargs = kwargs | {"inplace": False}
        return OUT_OF_PLACE.get(function, function)(*args, **kwargs)


OUT_OF_PLACE: Mapping[Callable[..., Any], Callable[..., Any]] = {
    Tensor.add_: torch.add,  # `+=` calls it
    Tensor.sub_: torch.sub,
    Tensor.mul_: torch.mul,
    Tensor.div_: torch.div,
    Tensor.sigmoid_: torch.sigmoid,
    torch.sigmoid_: torch.sigmoid,
}


class ActivationInputs(OutOfPlace):
    """Remembers what each softmax, sigmoid and argmax was given, also where its result is then reshaped.

    `before_activations` finds it again: the logits in the output of a network that ends in them.
    """

    def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function; its result gets the operator and its input, with the classes of an argmax on axis 1."""
        result = super().call(function, args, kwargs)
        name = getattr(function, "__name__", "").removeprefix("special_")
        name = name if name.startswith("_") else name.removesuffix("_")
        x = args[0] if args else kwargs.get("input")
        operator = ACTIVATION_OPERATORS.get(name)
        if operator == "ArgMax":
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            if dim is not None:
                classes_first = self.call(torch.movedim, (x, dim, 1), {})
                setattr(result[1] if name == "max" else result, BEFORE, (operator, classes_first))
        elif operator:
            setattr(result, BEFORE, (operator, x))
        elif name in RESHAPINGS and (before := getattr(x, BEFORE, None)):
            reshaped = before[1] if before[0] == "ArgMax" else self.call(function, (before[1], *args[1:]), kwargs)
            setattr(result, BEFORE, (before[0], reshaped))
        return result


BEFORE = "_before_activation"
ACTIVATION_OPERATORS = {
    "softmax": "Softmax",
    "log_softmax": "LogSoftmax",
    "sigmoid": "Sigmoid",
    "expit": "Sigmoid",
    "argmax": "ArgMax",
    "max": "ArgMax",
}
# Functions of torch that select, move or cast elements.
# fmt: off
RESHAPINGS = frozenset({
    "__getitem__", "byte", "contiguous", "flatten", "float", "int", "long", "movedim", "permute", "reshape", "select",
    "squeeze", "swapaxes", "to", "transpose", "type", "unsqueeze", "view",
})
# fmt: on


def before_activations(output: Tensor, operators: Sequence[str]) -> Tensor:
    """What the last of these operators was given, which follow one another back from the output.

    Raises `BundleError` where the network called them otherwise than as functions of torch.
    """
    for operator in operators:
        found, output = getattr(output, BEFORE, (None, output))
        if found != operator:
            raise BundleError(
                f"the {operator} at the end of the network is hidden in code that is not Python's: use torch's own "
                "function, or keep it with --activation none"
            )
    return output


class Exportable(_Mode):
    """Replaces functions that torch's exporter cannot write, or would write as arithmetic on indices."""

    def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function, or its counterpart that ONNX has."""
        return EXPORTABLE.get(function, function)(*args, **kwargs)


def adaptive_average_pool(input: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """y = P x Qᵀ: output cell i of m averages the input cells from floor(i n / m) to ceil((i + 1) n / m) of n."""
    requested = (output_size, output_size) if isinstance(output_size, int) else output_size
    sizes = (input.shape[-2], input.shape[-1])
    cells = [m or n for m, n in zip(requested, sizes, strict=True)]
    if cells == [1, 1]:
        return input.mean((-2, -1), keepdim=True)
    if not any(n % m for n, m in zip(sizes, cells, strict=True)):
        return F.avg_pool2d(input, [n // m for n, m in zip(sizes, cells, strict=True)])
    p, q = (_averaging_matrix(n, m).to(input.dtype) for n, m in zip(sizes, cells, strict=True))
    return p @ (input @ q.T.contiguous())


def average_pool(
    input: Tensor,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Average pooling with its divisor, which torch's exporter drops: the sum of a window is mean times area."""
    stride = stride or kernel_size
    if divisor_override is None or ceil_mode:  # the windows of ceil mode differ in area
        return F.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    return F.avg_pool2d(input, kernel_size, stride, padding) * (height * width / divisor_override)


def mean_rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """RReLU (Xu et al. 2015) as it is in inference: LeakyReLU with the mean of the slopes."""
    if training:
        raise BundleError("the network calls rrelu with training=True: call it with training=self.training")
    return F.leaky_relu(input, (lower + upper) / 2, inplace)


EXPORTABLE: Mapping[Callable[..., Any], Callable[..., Any]] = {
    F.adaptive_avg_pool2d: adaptive_average_pool,
    F.avg_pool2d: average_pool,
    F.rrelu: mean_rrelu,
}


def _averaging_matrix(n: int, m: int) -> Tensor:
    """The matrix [m,n] that averages n cells into m."""
    begin, end = ([i * n // m for i in range(m)], [-(-(i + 1) * n // m) for i in range(m)])
    rows = [[(a <= j < b) / (b - a) for j in range(n)] for a, b in zip(begin, end, strict=True)]
    return torch.tensor(rows)
