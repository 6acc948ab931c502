"""Every rule against PyTorch's autograd, and against central differences in float64."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor
from torch.nn import functional as F

from percept_models.autodiff.reverse import tail
from percept_models.autodiff.rules import RULES
from percept_models.graph.errors import UnsupportedOperator
from percept_models.graph.reader import OPSET, Array, Graph, run
from tests.percept_models import nodes


def noise(*shape: int, low: float = -1, high: float = 1, seed: int = 0) -> Array:
    """Uniform numbers."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def ints(*values: int) -> Array:
    """A constant int64 vector."""
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """An operator on given inputs (number `at` is differentiated) and the same in PyTorch."""

    torch: Callable[..., Tensor]
    inputs: Sequence[Array | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    at: int = 0
    opset: int = OPSET

    def model(self, operator: str, double: bool = False) -> onnx.ModelProto:
        """The operator as a whole graph."""
        return nodes.model(operator, self.inputs, self.attributes, double, self.outputs, self.at, self.opset)


X = noise(2, 4, 6, 5)
POSITIVE = noise(2, 4, 6, 5, low=0.5, high=2)
ROWS = noise(3, 5)
HALF = {"coordinate_transformation_mode": "half_pixel", "mode": "linear"}


def conv(x: Array, w: Array, b: Array | None = None, **how: Any) -> Case:
    """A convolution; `how` in PyTorch's terms."""
    pads = how.get("padding", (0, 0))
    attributes = {
        "strides": how.get("stride", (1, 1)),
        "dilations": how.get("dilation", (1, 1)),
        "group": how.get("groups", 1),
        "pads": [*pads, *pads],
    }
    return Case(lambda x, w, b=None: F.conv2d(x, w, b, **how), (x, w, b), attributes)


def deconv(x: Array, w: Array, extra: tuple[int, int], **how: Any) -> Case:
    """A transposed convolution; `how` in PyTorch's terms."""
    pads = how["padding"]
    attributes = {
        "strides": how["stride"],
        "dilations": how["dilation"],
        "group": how["groups"],
        "pads": [*pads, *pads],
        "output_padding": extra,
    }
    return Case(lambda x, w: F.conv_transpose2d(x, w, output_padding=extra, **how), (x, w), attributes)


def pool(kind: str, x: Array, size: int, stride: int, pads: int, ceil: bool, extra: int) -> Case:
    """A pooling; `extra` is the dilation of a maximum, or whether an average counts the padding."""
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
    """A resize to a static size, given by scales where they are whole and by sizes otherwise."""
    corners = {"align_corners": True} if "align_corners" in attributes.values() else {}
    target: tuple[Array | None, ...] = (None, None, ints(*x.shape[:2], *size))
    if size[0] % x.shape[2] == 0 == size[1] % x.shape[3]:
        target = (None, np.array([1, 1, *np.divide(size, x.shape[2:])], np.float32))
    return Case(lambda x, *_: F.interpolate(x, size, mode=torch_mode, **corners), (x, *target), attributes)


def blocks(x: Tensor) -> Tensor:
    """DepthToSpace by blocks of 2: the places in a block are the slowest of the channels."""
    n, c, h, w = x.shape
    return x.reshape(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // 4, 2 * h, 2 * w)


def depths(x: Tensor) -> Tensor:
    """SpaceToDepth by blocks of 2, the inverse."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def dilated(x: Tensor) -> Tensor:
    """An average of 2 x 2 cells that lie 3 and 2 apart, as a convolution."""
    return F.conv2d(x, torch.full((4, 1, 2, 2), 0.25, dtype=x.dtype), None, (2, 1), 0, (3, 2), 4)


CASES: dict[str, list[Case]] = {
    "Abs": [Case(torch.abs, (X,))],
    "Add": [
        Case(torch.add, (X, noise(4, 1, 5))),
        Case(torch.add, (X, X + 1)),
        Case(torch.add, (X, noise(2, 1, 6, 1)), at=1),
    ],
    "AveragePool": [
        pool("avg", X, 2, 2, 0, False, 0),
        pool("avg", X, 3, 2, 1, False, 0),
        pool("avg", X, 3, 2, 1, True, 0),
        pool("avg", X, 3, 2, 1, False, 1),
        pool("avg", X, 2, 3, 0, False, 0),
        pool("avg", X, 3, 2, 1, True, 1),
        pool("avg", X, 4, 3, 2, True, 1),
        pool("avg", X, 1, 1, 0, False, 0),
        Case(dilated, (X,), {"kernel_shape": [2, 2], "dilations": [3, 2], "strides": [2, 1]}, opset=19),
    ],
    "BatchNormalization": [
        Case(
            lambda x, s, b, m, v: F.batch_norm(x, m, v, s, b),
            (X, noise(4), noise(4), noise(4), noise(4, low=0.5, high=2)),
        )
    ],
    "Cast": [Case(lambda x: x.double(), (X,), {"to": 11})],
    "Celu": [Case(lambda x: F.celu(x, 0.7), (X,), {"alpha": 0.7})],
    "Clip": [
        Case(lambda x, a, b: x.clamp(a, b), (X, np.float32(-0.5), np.float32(0.25))),
        Case(lambda x, b: x.clamp(max=b), (X, None, np.float32(0.25))),
    ],
    "Concat": [Case(lambda *x: torch.cat(x, 1), (X, noise(2, 3, 6, 5)), {"axis": 1})],
    "Conv": [
        conv(X, noise(8, 4, 3, 3), noise(8), padding=(1, 1)),
        conv(X, noise(6, 2, 3, 2), stride=(2, 3), groups=2, dilation=(2, 1)),
        conv(X, noise(4, 1, 3, 3), padding=(2, 1), groups=4, stride=(2, 2)),
    ],
    "ConvTranspose": [
        deconv(X, noise(4, 3, 3, 3), (0, 0), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1),
        deconv(X, noise(4, 2, 2, 3), (1, 1), stride=(2, 2), padding=(0, 1), dilation=(1, 1), groups=2),
    ],
    "DepthToSpace": [
        Case(lambda x: F.pixel_shuffle(x, 2), (X,), {"blocksize": 2, "mode": "CRD"}),
        Case(blocks, (X,), {"blocksize": 2}),
    ],
    "Div": [
        Case(torch.div, (X, noise(4, 1, 1, low=1, high=2))),
        Case(torch.div, (X, noise(2, 4, 1, 1, low=1, high=2)), at=1),
    ],
    "Dropout": [Case(lambda x: x, (X,))],
    "Elu": [Case(lambda x: F.elu(x, 0.7), (X,), {"alpha": 0.7})],
    "Erf": [Case(torch.erf, (X,))],
    "Exp": [Case(torch.exp, (X,))],
    "Expand": [
        Case(lambda x, _: x.expand(2, 4, 6, 5), (noise(2, 4, 1, 1), ints(1, 4, 6, 5))),
        Case(lambda x, _: x.expand(3, 2, 4, 5), (noise(2, 1, 5), ints(3, 1, 4, 1))),
    ],
    "Flatten": [Case(lambda x: x.flatten(1), (X,))],
    "Gather": [
        Case(lambda x, _: x[:, 2], (X, np.array(2)), {"axis": 1}),
        Case(lambda x, i: x[:, :, i], (X, np.array([[0, 5], [-1, 2]])), {"axis": 2}),
        Case(lambda x, i: x[i], (X, ints(1, 1, 0)), {"axis": 0}),
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
    "HardSigmoid": [Case(F.hardsigmoid, (4 * X,), {"alpha": 1 / 6})],
    "HardSwish": [Case(F.hardswish, (4 * X,))],
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
    "Mean": [Case(lambda x, a, b: (x + a + b) / 3, (X, noise(4, 1, 5), noise(1)))],
    "Min": [Case(torch.minimum, (X, noise(4, 1, 5, seed=5))), Case(torch.minimum, (np.round(X), np.round(-X)))],
    "Mish": [Case(F.mish, (3 * X,))],
    "Mul": [
        Case(torch.mul, (X, noise(1, 4, 1, 1))),
        Case(torch.mul, (X, X + 1)),
        Case(torch.mul, (X, noise(2, 1, 6, 1)), at=1),
    ],
    "Neg": [Case(torch.neg, (X,))],
    "PRelu": [Case(lambda x, a: F.prelu(x, a.flatten()), (X, noise(4, 1, 1)))],
    "Pad": [Case(lambda x, _: F.pad(x, (1, 0, 2, 3)), (X, ints(0, 0, 2, 1, 0, 0, 3, 0)))],
    "Pow": [Case(torch.pow, (POSITIVE, np.float32(3))), Case(torch.pow, (POSITIVE, np.float32(0.5)))],
    "Reciprocal": [Case(torch.reciprocal, (POSITIVE,))],
    "ReduceL2": [
        Case(lambda x, _: x.norm(dim=1, keepdim=True), (X, ints(1))),
        Case(lambda x, _: x.norm(dim=(2, 3)), (X * (X[:, :, :1, :1] > 0), ints(2, 3)), {"keepdims": 0}),
    ],
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
    "Relu": [Case(torch.relu, (X,))],
    "Reshape": [
        Case(lambda x, _: x.reshape(2, -1), (X, ints(-1, 120))),
        Case(lambda x, _: x.reshape(2, 2, 2, 30), (X, ints(0, 2, 2, -1))),
    ],
    "Resize": [
        resize(X, (12, 10), "bilinear", **HALF),
        resize(X, (9, 7), "bilinear", **HALF),
        resize(X, (4, 5), "bilinear", **HALF),
        resize(
            X, (12, 15), "nearest", mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"
        ),
        resize(X, (11, 9), "bilinear", mode="linear", coordinate_transformation_mode="align_corners"),
    ],
    "Selu": [Case(F.selu, (X,))],
    "Sigmoid": [Case(torch.sigmoid, (X,))],
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
    "SpaceToDepth": [Case(depths, (noise(2, 3, 4, 6),), {"blocksize": 2})],
    "Split": [Case(lambda x, _: x[:, :1], (X, ints(1, 3)), {"axis": 1}, 2)],
    "Sqrt": [Case(torch.sqrt, (POSITIVE,))],
    "Squeeze": [Case(lambda x, _: x[:, :, 0, 0], (noise(2, 4, 1, 1), ints(2, 3)))],
    "Sub": [Case(torch.sub, (X, noise(4, 1, 1))), Case(torch.sub, (X, noise(2, 4, 1, 1)), at=1)],
    "Sum": [Case(lambda x, a, b: x + a + b, (X, noise(4, 1, 5), noise(1)))],
    "Tanh": [Case(torch.tanh, (X,))],
    "Tile": [Case(lambda x, _: x.repeat(1, 2, 1, 3), (X, ints(1, 2, 1, 3)))],
    "Transpose": [Case(lambda x: x.permute(0, 3, 1, 2), (X,), {"perm": [0, 3, 1, 2]})],
    "Unsqueeze": [Case(lambda x, _: x[:, None, ..., None], (X, ints(1, 5)))],
    "Where": [
        Case(torch.where, (X > 0, X, noise(4, 1, 1)), at=1),
        Case(torch.where, (X[:, :1] > 0, np.float32(0), X), at=2),
        Case(torch.where, (X > 0, noise(2, 4, 1, 1), X), at=1),
    ],
}
ZEROS = {"ArgMax", "ArgMin", "Ceil", "Floor", "Round", "Shape", "Sign", "Size"}
PROVEN = [(name, case) for name, cases in CASES.items() for case in cases]
IDS = [f"{name}-{i}" for name, cases in CASES.items() for i, _ in enumerate(cases)]


def check(operator: str, case: Case) -> None:
    """Output and gradient of the graph equal PyTorch's, relative to their greatest magnitude."""
    given = [torch.from_numpy(np.asarray(x)) for x in case.inputs if x is not None]
    x = given[case.at].clone().requires_grad_()
    y = case.torch(*given[: case.at], x, *given[case.at + 1 :])
    seed = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    (expected,) = torch.autograd.grad((y * seed).sum(), x)
    logits, found = nodes.gradient(case.model(operator), given[case.at].numpy(), seed.numpy())
    np.testing.assert_allclose(logits, y.detach().numpy(), atol=2e-5, rtol=1e-4)
    scale = max(float(expected.abs().max()), 1e-6)
    assert found.shape == expected.shape
    assert np.abs(found - expected.numpy()).max() / scale < 1e-5


def test_every_rule_is_proven() -> None:
    """A rule without a case, or a case without a rule, is a mistake."""
    assert set(RULES) == set(CASES) | ZEROS


@pytest.mark.parametrize(("operator", "case"), PROVEN, ids=IDS)
def test_a_rule_agrees_with_autograd(operator: str, case: Case) -> None:
    """Forward and reverse agree with PyTorch in float32."""
    check(operator, case)


# Operators without a float64 kernel in ONNX Runtime. Of a linear one even far points give the exact slope.
LINEAR = {"AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "Mean", "Resize"}
SINGLE = {"Cast", "Celu", "Erf", "Gelu", "GlobalMaxPool", "HardSigmoid", "HardSwish"}
SINGLE |= {"InstanceNormalization", "LRN", *LINEAR}


@pytest.mark.parametrize(("operator", "case"), PROVEN, ids=IDS)
def test_a_rule_agrees_with_central_differences(operator: str, case: Case) -> None:
    """The derivative along a random direction is the slope between two points in float64.

    The slope of the graph itself where ONNX Runtime has such a kernel or the operator is linear, and always that of
    the same function in PyTorch.
    """
    double = operator not in SINGLE
    graph, _ = tail(Graph(case.model(operator, double)), "x")
    given = [torch.as_tensor(np.asarray(c)) for c in case.inputs if c is not None]
    given = [c.double() if c.is_floating_point() else c for c in given]
    rng = np.random.default_rng(2)
    x = given[case.at].numpy()
    direction, seed = rng.uniform(-1, 1, x.shape), rng.uniform(-1, 1, case.torch(*given).shape)
    real = np.float64 if double else np.float32
    seeds = {"seed": seed.astype(np.float64 if operator == "Cast" else real)}

    def own(x: Array) -> Array:
        return run(graph, seeds | {"activations": x.astype(real)})["logits"].astype(np.float64)

    def other(x: Array) -> Array:
        return case.torch(*given[: case.at], torch.from_numpy(x), *given[case.at + 1 :]).numpy()

    def slope(f: Callable[[Array], Array], step: float) -> float:
        rise = f(x + step * direction) - f(x - step * direction)
        return float((seed * rise).sum() / (2 * step))

    gradients = run(graph, seeds | {"activations": x.astype(real)})["gradients"]
    expected = float((gradients * direction).sum())
    tolerance = 1e-6 if double else 1e-5
    assert slope(other, 1e-6) == pytest.approx(expected, rel=tolerance, abs=tolerance)
    if double or operator in LINEAR:
        assert slope(own, 1e-6 if double else 1.0) == pytest.approx(expected, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("operator", sorted(ZEROS))
def test_a_declared_zero_stops_the_gradient(operator: str) -> None:
    """The gradient of x * sum f(x), f piecewise constant, is that sum."""
    steps = [
        helper.make_node(operator, ["x"], ["stairs"]),
        helper.make_node("Cast", ["stairs"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["real"], ["flat"], keepdims=0),
        helper.make_node("Mul", ["x", "flat"], ["logits"]),
    ]
    shape = ["N", *X.shape[1:]]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    answer = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
    made = helper.make_model(
        helper.make_graph(steps, "stairs", [given], [answer]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    logits, found = nodes.gradient(made, X, np.ones_like(X))
    np.testing.assert_allclose(found * X, logits, rtol=1e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_convolutions_of_any_shape(data: st.DataObject) -> None:
    """Kernels, strides, pads, dilations and groups in any combination, sizes that leave a rest included."""
    pick = data.draw
    groups = pick(st.sampled_from([1, 2, 4]))
    kernel = [pick(st.integers(1, 4)) for _ in range(2)]
    dilation = tuple(pick(st.integers(1, 3)) for _ in range(2))
    padding = tuple(pick(st.integers(0, 3)) for _ in range(2))
    stride = tuple(pick(st.integers(1, 4)) for _ in range(2))
    size = [
        pick(st.integers(max(d * (k - 1) + 1 - 2 * p, 1), 12))
        for d, k, p in zip(dilation, kernel, padding, strict=True)
    ]
    x, w = noise(pick(st.integers(1, 3)), 4, *size), noise(8, 4 // groups, *kernel)
    check("Conv", conv(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_transposed_convolutions_of_any_shape(data: st.DataObject) -> None:
    """The same for transposed convolutions, with output padding."""
    pick = data.draw
    groups = pick(st.sampled_from([1, 2]))
    kernel = [pick(st.integers(1, 4)) for _ in range(2)]
    dilation = tuple(pick(st.integers(1, 2)) for _ in range(2))
    stride = tuple(pick(st.integers(1, 3)) for _ in range(2))
    padding = tuple(pick(st.integers(0, d * (k - 1))) for d, k in zip(dilation, kernel, strict=True))
    extra = tuple(pick(st.integers(0, s - 1)) for s in stride)
    x, w = noise(2, 4, *(pick(st.integers(4, 8)) for _ in range(2))), noise(4, 3, *kernel)
    check(
        "ConvTranspose",
        deconv(x, w, (extra[0], extra[1]), stride=stride, padding=padding, dilation=dilation, groups=groups),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(["max", "avg"]),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 2),
    st.booleans(),
    st.integers(0, 1),
    st.integers(6, 11),
    st.integers(6, 11),
)
def test_poolings_of_any_shape(
    kind: str, size: int, stride: int, pads: int, ceil: bool, extra: int, h: int, w: int
) -> None:
    """Windows, strides, pads, ceil mode, dilation and counted padding in any combination."""
    operator = {"max": "MaxPool", "avg": "AveragePool"}[kind]
    pads = min(pads, size // 2)
    if ceil and any(-(-(n + 2 * pads - (size - 1)) // stride) * stride >= n for n in (h, w)):
        return  # refused: see test_a_window_beyond_the_input_is_refused
    x = np.random.default_rng(3).permutation(6 * h * w).reshape(2, 3, h, w).astype(np.float32)
    check(operator, pool(kind, x, size, stride, pads, ceil, extra + (kind == "max")))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_uneven_windows_of_any_shape(data: st.DataObject) -> None:
    """What PyTorch does not have, against the slope of ONNX Runtime's own answers: padding differs from side to side,
    or is automatic, also in ceil mode with counted padding, and averages have holes.
    """
    pick = data.draw
    operator, opset = pick(st.sampled_from(["Conv", "AveragePool", "MaxPool"])), pick(st.sampled_from([18, 19]))
    kernel, stride, dilation = ([pick(st.integers(1, n)) for _ in range(2)] for n in (3, 3, 2))
    has = {"kernel_shape": kernel, "strides": stride}
    if operator != "AveragePool" or opset > 18:
        has["dilations"] = dilation
    if pick(st.booleans()):
        has["pads"] = [pick(st.integers(0, k - 1)) for k in kernel * 2]
    elif max(dilation) == 1 and max(stride) <= min(kernel):  # ONNX Runtime has no other
        has["auto_pad"] = pick(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    if operator != "Conv" and "auto_pad" not in has:
        has["ceil_mode"] = pick(st.integers(0, 1))
    if operator == "AveragePool":
        has["count_include_pad"] = pick(st.integers(0, 1))
    h, w = (pick(st.integers(6, 9)) for _ in range(2))
    x = np.random.default_rng(3).permutation(4 * h * w).reshape(2, 2, h, w).astype(np.float32) / 100
    inputs = (x, noise(3, 2, *kernel)) if operator == "Conv" else (x,)
    graph = Graph(nodes.model(operator, inputs, has, opset=opset))
    try:
        made, _ = tail(graph, "x")
    except UnsupportedOperator:
        return  # see test_a_window_beyond_the_input_is_refused
    direction = noise(*x.shape, seed=1)
    seed = noise(2, *(size or 0 for size in graph.shapes["logits"][1:]), seed=2)
    answers = [
        run(made, {"activations": (x + k * direction / 500).astype(np.float32), "seed": seed}) for k in (-1, 0, 1)
    ]
    rise = answers[2]["logits"].astype(np.float64) - answers[0]["logits"]
    expected = float((answers[1]["gradients"] * direction).sum())
    assert float((seed * rise).sum() * 250) == pytest.approx(expected, rel=2e-3, abs=2e-3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(["Add", "Sub", "Mul", "Div"]),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.integers(1, 4),
    st.booleans(),
)
def test_broadcasting_of_any_shape(operator: str, ones: list[bool], rank: int, swap: bool) -> None:
    """Either operand may be repeated along any axes, or have fewer of them."""
    function = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div}[operator]
    full = (2, 3, 4, 5)
    small = tuple(1 if one else n for one, n in zip([False, *ones], full, strict=True))
    other = full[4 - rank :] if rank < 4 else (1, *full[1:])
    x, c = noise(*(small if swap else full), low=1, high=2), noise(*other, low=1, high=2, seed=4)
    check(operator, Case(function, (x, c)))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 17), st.integers(1, 17))
def test_resizing_to_any_size(h: int, w: int, height: int, width: int) -> None:
    """Bilinear resizing up and down by any ratio."""
    check("Resize", resize(noise(2, 3, h, w), (height, width), "bilinear", **HALF))


def test_an_unknown_operator_is_refused_by_name() -> None:
    """The error names the operator."""
    made = nodes.model("Sin", (X,), {})
    with pytest.raises(UnsupportedOperator, match="Sin"):
        tail(Graph(made), "x")


def test_a_use_without_a_rule_is_refused_by_name() -> None:
    """A known operator used in an unknown way is refused like an unknown one."""
    made = nodes.model("Pad", (X, ints(0, 0, 1, 1, 0, 0, 1, 1)), {"mode": "reflect"})
    with pytest.raises(UnsupportedOperator, match="Pad"):
        tail(Graph(made), "x")


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_a_window_beyond_the_input_is_refused(kind: str) -> None:
    """ONNX's shape inference and ONNX Runtime do not agree how many cells there are."""
    case = pool(kind, X, 1, 2, 0, True, 1 if kind == "max" else 0)
    made = nodes.model({"max": "MaxPool", "avg": "AveragePool"}[kind], (X,), case.attributes)
    with pytest.raises(UnsupportedOperator, match="beyond the input"):
        tail(Graph(made), "x")
