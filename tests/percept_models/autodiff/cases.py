"""CASES: operator → uses of it with the same computation in PyTorch, one for every rule."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

from percept_models.graph.builder import OPSET
from percept_models.graph.reader import Array
from tests.percept_models.onnx_models import operator_model, run_tail


def noise(*shape: int, low: float = -1, high: float = 1, seed: int = 0) -> Array:
    """Uniform random numbers, float32."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def ints(*values: int) -> Array:
    """An int64 vector."""
    return np.array(values, np.int64)


def scalar(value: float) -> Array:
    """A float32 number."""
    return np.array(value, np.float32)


@dataclass(frozen=True)
class Case:
    """An operator on given inputs, differentiated by input `at`, and the same computation in PyTorch.

    With `scales_input` the model is x * sum(f(x)) for an f without a gradient: only the factor x is differentiated.
    """

    torch: Callable[..., Tensor]
    inputs: Sequence[Array | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    at: int = 0
    opset: int = OPSET
    scales_input: bool = False

    def model(self, operator: str, double: bool = False) -> onnx.ModelProto:
        """The operator as a whole model."""
        return operator_model(
            operator, self.inputs, self.attributes, double, self.outputs, self.at, self.opset, self.scales_input
        )


def check_gradient(operator: str, case: Case) -> None:
    """Output and gradient of the model equal PyTorch's, relative to their greatest magnitude."""
    given = [torch.from_numpy(np.asarray(x)) for x in case.inputs if x is not None]
    x = given[case.at].clone().requires_grad_()
    y = case.torch(*given[: case.at], x, *given[case.at + 1 :])
    seed = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    (expected,) = torch.autograd.grad((y * seed).sum(), x)
    logits, found = run_tail(case.model(operator), given[case.at].numpy(), seed.numpy())
    np.testing.assert_allclose(logits, y.detach().numpy(), atol=2e-5, rtol=1e-4)
    scale = max(float(expected.abs().max()), 1e-6)
    assert found.shape == expected.shape
    assert np.abs(found - expected.numpy()).max() / scale < 1e-5


X = noise(2, 4, 6, 5)
POSITIVE = noise(2, 4, 6, 5, low=0.5, high=2)
ROWS = noise(3, 5)
HALF_PIXEL = {"coordinate_transformation_mode": "half_pixel", "mode": "linear"}


def conv(x: Array, w: Array, b: Array | None = None, **options: Any) -> Case:
    """A convolution; `options` are PyTorch's."""
    pads = options.get("padding", (0, 0))
    attributes = {
        "strides": options.get("stride", (1, 1)),
        "dilations": options.get("dilation", (1, 1)),
        "group": options.get("groups", 1),
        "pads": [*pads, *pads],
    }
    return Case(lambda x, w, b=None: F.conv2d(x, w, b, **options), (x, w, b), attributes)


def conv_transpose(x: Array, w: Array, extra: tuple[int, int], **options: Any) -> Case:
    """A transposed convolution; `options` are PyTorch's."""
    pads = options["padding"]
    attributes = {
        "strides": options["stride"],
        "dilations": options["dilation"],
        "group": options["groups"],
        "pads": [*pads, *pads],
        "output_padding": extra,
    }
    return Case(lambda x, w: F.conv_transpose2d(x, w, output_padding=extra, **options), (x, w), attributes)


def pool(kind: str, x: Array, size: int, stride: int, pads: int, ceil: bool, extra: int) -> Case:
    """A pooling; `extra` is the dilation of a max pooling, or whether an average pooling counts the padding."""
    attributes: dict[str, Any] = {
        "kernel_shape": [size] * 2,
        "strides": [stride] * 2,
        "pads": [pads] * 4,
        "ceil_mode": int(ceil),
    }
    if kind == "max":
        attributes["dilations"] = [extra] * 2
        return Case(lambda x: F.max_pool2d(x, size, stride, pads, extra, ceil), (x,), attributes)
    attributes["count_include_pad"] = extra
    return Case(lambda x: F.avg_pool2d(x, size, stride, pads, ceil, bool(extra)), (x,), attributes)


def resize(x: Array, size: tuple[int, int], torch_mode: str, **attributes: Any) -> Case:
    """A resize to a static size, given as scales where these are integers and as sizes otherwise."""
    corners = {"align_corners": True} if "align_corners" in attributes.values() else {}
    target: tuple[Array | None, ...] = (None, None, ints(*x.shape[:2], *size))
    if size[0] % x.shape[2] == 0 == size[1] % x.shape[3]:
        target = (None, np.array([1, 1, *np.divide(size, x.shape[2:])], np.float32))
    return Case(lambda x, *_: F.interpolate(x, size, mode=torch_mode, **corners), (x, *target), attributes)


def asymmetric(x: Tensor, *_: Tensor) -> Tensor:
    """Linear interpolation of [N,4,6,5] to [N,4,9,10], cell i at i / scale of the input, constant beyond its end."""
    for axis, size in ((2, 9), (3, 10)):
        position = torch.arange(size, dtype=x.dtype) * (x.shape[axis] / size)
        low = position.floor().long()
        high = (low + 1).clamp(max=x.shape[axis] - 1)
        share = (position - low).reshape([size if a == axis else 1 for a in range(4)])
        x = x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share
    return x


def depth_to_space(x: Tensor) -> Tensor:
    """DepthToSpace by blocks of 2 x 2; the position in a block varies slowest along the channels."""
    n, c, h, w = x.shape
    return x.reshape(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // 4, 2 * h, 2 * w)


def space_to_depth(x: Tensor) -> Tensor:
    """SpaceToDepth by blocks of 2 x 2, the inverse."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def dilated_average(x: Tensor) -> Tensor:
    """An average of 2 x 2 cells at a distance of 3 and 2, as a convolution."""
    return F.conv2d(x, torch.full((4, 1, 2, 2), 0.25, dtype=x.dtype), None, (2, 1), 0, (3, 2), 4)


def scaled_by(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """x * sum(f(x)) without a gradient of f, as reverse mode must treat an f that is piecewise constant."""
    return lambda x: x * f(x.detach()).sum()


def step(f: Callable[[Tensor], Tensor]) -> Case:
    """A piecewise constant operator in the model x * sum(f(x))."""
    return Case(scaled_by(f), (X,), scales_input=True)


def einsum(equation: str, *operands: Array, at: int = 0) -> Case:
    """An Einsum; PyTorch writes the letters of an output that is left out in another order only for capitals."""
    return Case(lambda *x: torch.einsum(equation, *x), operands, {"equation": equation}, at=at)


def padded(mode: str, torch_mode: str) -> Case:
    """Padding that repeats cells: one axis on both sides, the other on one, so that corners are repeated twice."""
    pads = (X, ints(0, 0, 3, 0, 0, 0, 2, 4))
    return Case(lambda x, _: F.pad(x, (0, 4, 3, 2), torch_mode), pads, {"mode": mode})


def grid_sample(at: int, mode: str, padding: str, corners: bool) -> Case:
    """A map read at points of which some lie outside; differentiated by the map (0) or by the points (1)."""
    options: dict[str, Any] = {"mode": mode, "padding_mode": padding}
    return Case(
        lambda x, p: F.grid_sample(x, p, **options, align_corners=corners),
        (X, noise(2, 3, 7, 2, low=-1.3, high=1.3, seed=8)),
        options | {"align_corners": int(corners)},
        at=at,
    )


INDICES = np.random.default_rng(6).permuted(np.tile(np.arange(6)[:, None], (2, 4, 1, 5)), axis=2)[:, :, :3]
UPDATES = noise(2, 4, 3, 5, seed=7)
ROW_INDICES = np.array([[[0, 1, 2], [1, 3, 0]], [[0, 0, 5], [1, 2, 1]]])  # of rows x[i, j, k]
UNPOOLED = np.array([[0, 3], [9, 10], [17, 18]]) + 24 * np.arange(8).reshape(2, 4, 1, 1)  # in maps of 6 x 4 cells


def scatter_rows(x: Tensor, i: Tensor, u: Tensor) -> Tensor:
    """Rows of x replaced by those of u."""
    return x.index_put((i[..., 0], i[..., 1], i[..., 2]), u)


def add_rows(x: Tensor, i: Tensor, u: Tensor) -> Tensor:
    """Rows of u added to those of x."""
    return x.index_put((i[..., 0], i[..., 1], i[..., 2]), u, accumulate=True)


def max_unpool(x: Tensor, i: Tensor) -> Tensor:
    """Zeros [2,4,6,4] with x at the indices."""
    return torch.zeros(2 * 4 * 6 * 4, dtype=x.dtype).index_put((i.flatten(),), x.flatten()).reshape(2, 4, 6, 4)


CASES: dict[str, list[Case]] = {
    "Abs": [Case(torch.abs, (X,))],
    "Acos": [Case(torch.acos, (0.9 * X,))],
    "Acosh": [Case(torch.acosh, (1 + POSITIVE,))],
    "Add": [
        Case(torch.add, (X, noise(4, 1, 5))),
        Case(torch.add, (X, X + 1)),
        Case(torch.add, (X, noise(2, 1, 6, 1)), at=1),
    ],
    "ArgMax": [step(lambda x: x.argmax(0))],
    "ArgMin": [step(lambda x: x.argmin(0))],
    "Asin": [Case(torch.asin, (0.9 * X,))],
    "Asinh": [Case(torch.asinh, (3 * X,))],
    "Atan": [Case(torch.atan, (3 * X,))],
    "Atanh": [Case(torch.atanh, (0.9 * X,))],
    "AveragePool": [
        pool("avg", X, 2, 2, 0, False, 0),
        pool("avg", X, 3, 2, 1, False, 0),
        pool("avg", X, 3, 2, 1, True, 0),
        pool("avg", X, 3, 2, 1, False, 1),
        pool("avg", X, 2, 3, 0, False, 0),
        pool("avg", X, 3, 2, 1, True, 1),
        pool("avg", X, 4, 3, 2, True, 1),
        pool("avg", X, 1, 1, 0, False, 0),
        Case(dilated_average, (X,), {"kernel_shape": [2, 2], "dilations": [3, 2], "strides": [2, 1]}, opset=19),
    ],
    "BatchNormalization": [
        Case(
            lambda x, s, b, m, v: F.batch_norm(x, m, v, s, b),
            (X, noise(4), noise(4), noise(4), noise(4, low=0.5, high=2)),
        )
    ],
    "Cast": [Case(lambda x: x.double(), (X,), {"to": 11})],
    "Ceil": [step(torch.ceil)],
    "Celu": [Case(lambda x: F.celu(x, 0.7), (X,), {"alpha": 0.7})],
    "Clip": [
        Case(lambda x, a, b: x.clamp(a, b), (X, scalar(-0.5), scalar(0.25))),
        Case(lambda x, b: x.clamp(max=b), (X, None, scalar(0.25))),
    ],
    "Concat": [Case(lambda *x: torch.cat(x, 1), (X, noise(2, 3, 6, 5)), {"axis": 1})],
    "Conv": [
        conv(X, noise(8, 4, 3, 3), noise(8), padding=(1, 1)),
        conv(X, noise(6, 2, 3, 2), stride=(2, 3), groups=2, dilation=(2, 1)),
        conv(X, noise(4, 1, 3, 3), padding=(2, 1), groups=4, stride=(2, 2)),
    ],
    "ConvTranspose": [
        conv_transpose(X, noise(4, 3, 3, 3), (0, 0), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1),
        conv_transpose(X, noise(4, 2, 2, 3), (1, 1), stride=(2, 2), padding=(0, 1), dilation=(1, 1), groups=2),
    ],
    "Cos": [Case(torch.cos, (3 * X,))],
    "Cosh": [Case(torch.cosh, (X,))],
    "CumSum": [
        Case(lambda x, _: x.cumsum(2), (X, np.array(2))),
        Case(lambda x, _: x.cumsum(3) - x, (X, np.array(-1)), {"exclusive": 1}),
        Case(lambda x, _: x.flip(1).cumsum(1).flip(1), (X, np.array(1)), {"reverse": 1}),
        Case(lambda x, _: x.flip(2).cumsum(2).flip(2) - x, (X, np.array(2)), {"reverse": 1, "exclusive": 1}),
    ],
    "DFT": [
        Case(lambda x: torch.view_as_real(torch.fft.fft(x[..., 0], dim=2)), (X[..., :1],), {"axis": 2}),
        Case(lambda x: torch.view_as_real(torch.fft.rfft(x[..., 0], dim=2)), (X[..., :1],), {"axis": 2, "onesided": 1}),
        Case(lambda x: torch.view_as_real(torch.fft.rfft(x[..., 0], dim=1)), (X[:, :3, :, :1],), {"onesided": 1}),
        Case(lambda x: torch.view_as_real(torch.fft.fft(torch.view_as_complex(x), dim=1)), (X[..., :2].copy(),)),
        Case(
            lambda x: torch.view_as_real(torch.fft.ifft(torch.view_as_complex(x), dim=2)),
            (X[..., :2].copy(),),
            {"axis": 2, "inverse": 1},
        ),
    ],
    "DepthToSpace": [
        Case(lambda x: F.pixel_shuffle(x, 2), (X,), {"blocksize": 2, "mode": "CRD"}),
        Case(depth_to_space, (X,), {"blocksize": 2}),
    ],
    "Div": [
        Case(torch.div, (X, noise(4, 1, 1, low=1, high=2))),
        Case(torch.div, (X, noise(2, 4, 1, 1, low=1, high=2)), at=1),
    ],
    "Dropout": [Case(lambda x: x, (X,))],
    "Einsum": [
        einsum("nchw->nhwc", X),
        einsum("nchw,cd->ndhw", X, noise(4, 3)),
        einsum("dc,nchw->ndh", noise(3, 4), X, at=1),
        einsum("nchw,nchw->nc", X, X + 1),
        einsum("nchw,kh,kw", X, noise(3, 6), noise(3, 5)),
        einsum("nchw->nh", X),
        einsum("ncij,nkij->nck", X, noise(2, 3, 6, 5)),
    ],
    "Elu": [Case(lambda x: F.elu(x, 0.7), (X,), {"alpha": 0.7})],
    "Erf": [Case(torch.erf, (X,))],
    "Exp": [Case(torch.exp, (X,))],
    "Expand": [
        Case(lambda x, _: x.expand(2, 4, 6, 5), (noise(2, 4, 1, 1), ints(1, 4, 6, 5))),
        Case(lambda x, _: x.expand(3, 2, 4, 5), (noise(2, 1, 5), ints(3, 1, 4, 1))),
    ],
    "Flatten": [Case(lambda x: x.flatten(1), (X,))],
    "Floor": [step(torch.floor)],
    "Gather": [
        Case(lambda x, _: x[:, 2], (X, np.array(2)), {"axis": 1}),
        Case(lambda x, i: x[:, :, i], (X, np.array([[0, 5], [-1, 2]])), {"axis": 2}),
        Case(lambda x, i: x[i], (X, ints(1, 1, 0)), {"axis": 0}),
    ],
    "GatherElements": [
        Case(lambda x, i: x.gather(2, i), (X, INDICES), {"axis": 2}),
        Case(lambda x, i: x.gather(-1, i), (X, INDICES[..., :3] % 5), {"axis": -1}),
    ],
    "GatherND": [Case(lambda x, i: x[i[..., 0], i[..., 1]], (X, np.array([[[0, 1], [1, 3]], [[0, 1], [0, -2]]])))],
    "Gelu": [
        Case(F.gelu, (2 * X,)),
        Case(lambda x: F.gelu(x, approximate="tanh"), (2 * X,), {"approximate": "tanh"}),
    ],
    "Gemm": [
        Case(lambda x, w, b: x @ w.T + b, (ROWS, noise(4, 5), noise(4)), {"transB": 1}),
        Case(lambda x, w: 0.5 * x @ w, (ROWS, noise(5, 4)), {"alpha": 0.5}),
        Case(lambda x, w: x.T @ w, (ROWS, noise(3, 4)), {"transA": 1}),
        Case(lambda x, w: x.T @ w.T, (ROWS, noise(4, 3)), {"transA": 1, "transB": 1}),
        Case(lambda x, w: x @ w.T, (ROWS, noise(4, 5)), {"transB": 1}, at=1),
        Case(lambda x, w: x.T @ w, (ROWS, noise(3, 4)), {"transA": 1}, at=1),
        Case(lambda x, w, b: x @ w + 0.5 * b, (ROWS, noise(5, 4), noise(3, 4)), {"beta": 0.5}, at=2),
    ],
    "GlobalAveragePool": [Case(lambda x: x.mean((2, 3), keepdim=True), (X,))],
    "GlobalMaxPool": [Case(lambda x: x.amax((2, 3), keepdim=True), (X,))],
    "GridSample": [
        *(
            grid_sample(at, mode, padding, corners)
            for mode, at in (("bilinear", 0), ("bilinear", 1), ("nearest", 0))
            for padding in ("zeros", "border")
            for corners in (False, True)
        ),
    ],
    "HardSigmoid": [Case(F.hardsigmoid, (4 * X,), {"alpha": 1 / 6})],
    "HardSwish": [Case(F.hardswish, (4 * X,))],
    "Hardmax": [step(lambda x: F.one_hot(x.argmax(-1), 5))],
    "Identity": [Case(lambda x: x, (X,))],
    "InstanceNormalization": [
        Case(lambda x, s, b: F.instance_norm(x, weight=s, bias=b), (X, noise(4), noise(4))),
        Case(
            lambda x, s, b: F.instance_norm(x, weight=s, bias=b, eps=0.1), (X[0], noise(6), noise(6)), {"epsilon": 0.1}
        ),
    ],
    "LRN": [
        Case(
            lambda x: F.local_response_norm(x, 3, 2.0, 0.6, 1.5),
            (X,),
            {"size": 3, "alpha": 2.0, "beta": 0.6, "bias": 1.5},
        ),
        Case(lambda x: F.local_response_norm(x, 5, 0.5), (noise(2, 7, 3, 2),), {"size": 5, "alpha": 0.5}),
    ],
    "LayerNormalization": [
        Case(lambda x, s, b: F.layer_norm(x, (5,), s, b), (X, noise(5), noise(5))),
        Case(lambda x, s: F.layer_norm(x, (6, 5), s, eps=0.1), (X, noise(6, 5)), {"axis": 2, "epsilon": 0.1}),
    ],
    "LeakyRelu": [Case(lambda x: F.leaky_relu(x, 0.1), (X,), {"alpha": 0.1})],
    "Log": [Case(torch.log, (POSITIVE,))],
    "LogSoftmax": [
        Case(lambda x: x.log_softmax(-1), (ROWS,)),
        Case(lambda x: x.log_softmax(1), (X,), {"axis": 1}),
    ],
    "LpNormalization": [
        Case(lambda x: F.normalize(x, dim=1), (X,), {"axis": 1}),
        Case(lambda x: F.normalize(x, p=1.0, dim=-1), (X,), {"p": 1}),
    ],
    "MatMul": [
        Case(torch.matmul, (ROWS, noise(5, 4))),
        Case(torch.matmul, (X, noise(5, 3))),
        Case(torch.matmul, (X, noise(4, 5, 3))),
        Case(torch.matmul, (noise(2, 1, 6, 5), noise(4, 5, 3))),
        Case(torch.matmul, (noise(3, 6), X), at=1),
    ],
    "Max": [
        Case(torch.maximum, (X, noise(4, 1, 5, seed=5))),
        Case(torch.maximum, (noise(4, 1, 5, seed=5), X), at=1),
        Case(torch.maximum, (np.round(X), np.round(-X))),
    ],
    "MaxPool": [
        pool("max", X, 2, 2, 0, False, 1),
        pool("max", X, 3, 2, 1, False, 1),
        pool("max", X, 3, 2, 0, True, 1),
        pool("max", X, 2, 1, 1, False, 2),
    ],
    "MaxUnpool": [Case(max_unpool, (noise(2, 4, 3, 2), UNPOOLED), {"kernel_shape": [2, 2], "strides": [2, 2]})],
    "Mean": [Case(lambda x, a, b: (x + a + b) / 3, (X, noise(4, 1, 5), noise(1)))],
    "Min": [Case(torch.minimum, (X, noise(4, 1, 5, seed=5))), Case(torch.minimum, (np.round(X), np.round(-X)))],
    "Mish": [Case(F.mish, (3 * X,))],
    "Mod": [
        Case(torch.fmod, (3 * X, noise(4, 1, 1, low=0.4, high=1)), {"fmod": 1}),
        Case(torch.fmod, (3 * X[:, :1], noise(4, 1, 1, low=0.4, high=1)), {"fmod": 1}),
    ],
    "Mul": [
        Case(torch.mul, (X, noise(1, 4, 1, 1))),
        Case(torch.mul, (X, X + 1)),
        Case(torch.mul, (X, noise(2, 1, 6, 1)), at=1),
    ],
    "Neg": [Case(torch.neg, (X,))],
    "PRelu": [Case(lambda x, a: F.prelu(x, a.flatten()), (X, noise(4, 1, 1)))],
    "Pad": [
        Case(lambda x, _: F.pad(x, (1, 0, 2, 3)), (X, ints(0, 0, 2, 1, 0, 0, 3, 0))),
        Case(lambda x, _: F.pad(x, (-1, 2, 1, -3)), (X, ints(0, 0, 1, -1, 0, 0, -3, 2))),
        Case(lambda x, *_: F.pad(x, (1, 0, -2, 0)), (X, ints(1, -2, 0, 0), None, ints(3, -2))),
        *(padded(onnx, torch) for onnx, torch in (("reflect", "reflect"), ("edge", "replicate"), ("wrap", "circular"))),
        Case(lambda x, _: F.pad(x, (-1, -1, -2, 0)), (X, ints(0, 0, -2, -1, 0, 0, 0, -1)), {"mode": "reflect"}),
    ],
    "Pow": [Case(torch.pow, (POSITIVE, scalar(3))), Case(torch.pow, (POSITIVE, scalar(0.5)))],
    "Reciprocal": [Case(torch.reciprocal, (POSITIVE,))],
    "ReduceL1": [Case(lambda x, _: x.abs().sum((1, 3)), (X, ints(1, 3)), {"keepdims": 0})],
    "ReduceL2": [
        Case(lambda x, _: x.norm(dim=1, keepdim=True), (X, ints(1))),
        Case(lambda x, _: x.norm(dim=(2, 3)), (X * (X[:, :, :1, :1] > 0), ints(2, 3)), {"keepdims": 0}),
    ],
    "ReduceLogSum": [Case(lambda x, _: x.sum(1, keepdim=True).log(), (POSITIVE, ints(1)))],
    "ReduceLogSumExp": [Case(lambda x, _: x.logsumexp((2, 3)), (3 * X, ints(2, 3)), {"keepdims": 0})],
    "ReduceMax": [
        Case(lambda x, _: x.amax((2, 3)), (X, ints(2, 3)), {"keepdims": 0}),
        Case(lambda x, _: x.amax(1, keepdim=True), (np.concatenate([X, X], 1), ints(1))),
    ],
    "ReduceMean": [
        Case(lambda x, _: x.mean((2, 3)), (X, ints(2, 3)), {"keepdims": 0}),
        Case(lambda x, _: x.mean((2, 3), keepdim=True), (X, ints(-1, -2))),
    ],
    "ReduceMin": [Case(lambda x, _: x.amin((2, 3), keepdim=True), (X, ints(-1, -2)))],
    "ReduceSum": [Case(lambda x, _: x.sum(1), (X, ints(1)), {"keepdims": 0})],
    "ReduceSumSquare": [Case(lambda x, _: x.square().sum(1), (X, ints(1)), {"keepdims": 0})],
    "Relu": [Case(torch.relu, (X,))],
    "Reshape": [
        Case(lambda x, _: x.reshape(2, -1), (X, ints(-1, 120))),
        Case(lambda x, _: x.reshape(2, 2, 2, 30), (X, ints(0, 2, 2, -1))),
    ],
    "Resize": [
        resize(X, (12, 10), "bilinear", **HALF_PIXEL),
        resize(X, (9, 7), "bilinear", **HALF_PIXEL),
        resize(X, (4, 5), "bilinear", **HALF_PIXEL),
        resize(
            X, (12, 15), "nearest", mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"
        ),
        resize(X, (11, 9), "bilinear", mode="linear", coordinate_transformation_mode="align_corners"),
        Case(
            asymmetric,
            (X, None, None, ints(2, 4, 9, 10)),
            {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
        ),
    ],
    "Round": [step(torch.round)],
    "ScatterElements": [
        Case(lambda x, i, u: x.scatter(2, i, u), (X, INDICES, UPDATES), {"axis": 2}),
        Case(lambda x, i, u: x.scatter(2, i, u), (X, INDICES, UPDATES), {"axis": 2}, at=2),
        Case(lambda x, i, u: x.scatter_add(2, i, u), (X, INDICES, UPDATES), {"axis": 2, "reduction": "add"}),
        Case(lambda x, i, u: x.scatter_add(2, i, u), (X, INDICES, UPDATES), {"axis": 2, "reduction": "add"}, at=2),
    ],
    "ScatterND": [
        Case(scatter_rows, (X, ROW_INDICES, noise(2, 2, 5, seed=4))),
        Case(scatter_rows, (X, ROW_INDICES, noise(2, 2, 5, seed=4)), at=2),
        Case(add_rows, (X, ROW_INDICES, noise(2, 2, 5, seed=4)), {"reduction": "add"}),
        Case(add_rows, (X, ROW_INDICES, noise(2, 2, 5, seed=4)), {"reduction": "add"}, at=2),
    ],
    "Selu": [Case(F.selu, (X,))],
    "Shape": [step(lambda x: torch.tensor(x.shape))],
    "Shrink": [
        Case(lambda x: F.softshrink(x, 0.35), (X,), {"lambd": 0.35, "bias": 0.35}),
        Case(lambda x: F.hardshrink(x, 0.35), (X,), {"lambd": 0.35}),
    ],
    "Sigmoid": [Case(torch.sigmoid, (X,))],
    "Sign": [step(torch.sign)],
    "Sin": [Case(torch.sin, (3 * X,))],
    "Sinh": [Case(torch.sinh, (X,))],
    "Size": [step(lambda x: torch.tensor(x.numel()))],
    "Slice": [
        Case(lambda x, *_: x[:, :, 1:5, -3:], (X, ints(1, -3), ints(5, 99), ints(2, 3))),
        Case(lambda x, *_: x[:, 1:3], (X, ints(1), ints(3), ints(1), ints(1))),
        Case(lambda x, *_: x[:, :, ::2, 1:5:3], (X, ints(0, 1), ints(9, 5), ints(2, 3), ints(2, 3))),
        Case(lambda x, *_: x.flip(2)[:, :, :4:3], (X, ints(9), ints(1), ints(2), ints(-3))),
    ],
    "Softmax": [
        Case(lambda x: x.softmax(-1), (ROWS,)),
        Case(lambda x: x.softmax(1), (X,), {"axis": 1}),
    ],
    "Softplus": [Case(F.softplus, (3 * X,))],
    "Softsign": [Case(F.softsign, (3 * X,))],
    "SpaceToDepth": [Case(space_to_depth, (noise(2, 3, 4, 6),), {"blocksize": 2})],
    "Split": [Case(lambda x, _: x[:, :1], (X, ints(1, 3)), {"axis": 1}, 2)],
    "Sqrt": [Case(torch.sqrt, (POSITIVE,))],
    "Squeeze": [Case(lambda x, _: x[:, :, 0, 0], (noise(2, 4, 1, 1), ints(2, 3)))],
    "Sub": [Case(torch.sub, (X, noise(4, 1, 1))), Case(torch.sub, (X, noise(2, 4, 1, 1)), at=1)],
    "Sum": [Case(lambda x, a, b: x + a + b, (X, noise(4, 1, 5), noise(1)))],
    "Tan": [Case(torch.tan, (X,))],
    "Tanh": [Case(torch.tanh, (X,))],
    "ThresholdedRelu": [Case(lambda x: F.threshold(x, 0.2, 0.0), (X,), {"alpha": 0.2})],
    "Tile": [Case(lambda x, _: x.repeat(1, 2, 1, 3), (X, ints(1, 2, 1, 3)))],
    "TopK": [
        Case(lambda x, _: x.topk(2, 1).values, (X, ints(2)), {"axis": 1}, 2),
        Case(lambda x, _: x.topk(3, -1, largest=False).values, (X, ints(3)), {"largest": 0}, 2),
    ],
    "Transpose": [Case(lambda x: x.permute(0, 3, 1, 2), (X,), {"perm": [0, 3, 1, 2]})],
    "Trilu": [
        Case(torch.triu, (X,)),
        Case(lambda x, _: x.tril(-1), (X, np.array(-1)), {"upper": 0}),
    ],
    "Unsqueeze": [Case(lambda x, _: x[:, None, ..., None], (X, ints(1, 5)))],
    "Where": [
        Case(torch.where, (X > 0, X, noise(4, 1, 1)), at=1),
        Case(torch.where, (X[:, :1] > 0, scalar(0), X), at=2),
        Case(torch.where, (X > 0, noise(2, 4, 1, 1), X), at=1),
    ],
}
