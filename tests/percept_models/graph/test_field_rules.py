"""Every field rule against the effective receptive fields of small graphs."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from percept_models.autodiff.tail import build_tail
from percept_models.graph.builder import OPSET, Builder
from percept_models.graph.execution import run
from percept_models.graph.field import Field
from percept_models.graph.field_rules import ELEMENTWISE, FIELD_RULES
from percept_models.graph.reader import Array, Graph
from percept_models.graph.receptive_field import receptive_fields

SIZE = (24, 20)
CHANNELS = 4


def positive(*shape: int) -> Array:
    """Uniform numbers between 0.1 and 1, so that no sum of them vanishes."""
    return np.random.default_rng(0).uniform(0.1, 1, shape).astype(np.float32)


class NetworkBuilder(Builder):
    """A builder with layers of positive weights."""

    def ints(self, *values: int) -> str:
        """An int64 vector."""
        return self.constant(np.array(values, np.int64))

    def weights(self, *shape: int) -> str:
        """Positive weights."""
        return self.constant(positive(*shape))

    def conv(self, x: str, size: int, channels: int = CHANNELS, **attributes: object) -> str:
        """A convolution that keeps the number of channels."""
        return self.op.Conv(x, self.weights(channels, channels, size, size), **attributes)

    def filled(self, x: str, value: int) -> str:
        """An int64 tensor of the shape of x with one value everywhere."""
        return self.op.ConstantOfShape(
            self.op.Shape(x), value=helper.make_tensor("value", TensorProto.INT64, [1], [value])
        )

    def channels_last(self, x: str) -> str:
        """A map [N,C,h,w] as [N,h,w,C]."""
        return self.op.Transpose(x, perm=[0, 2, 3, 1])


Body = Callable[[NetworkBuilder, str], str]


def graph_of(body: Body, channels: int = CHANNELS, size: tuple[int, int] = SIZE) -> Graph:
    """The graph logits = body(x), x [N,C,H,W]."""
    b = NetworkBuilder(["x", "logits"])
    b.nodes.append(helper.make_node("Identity", [body(b, "x")], ["logits"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, *size])]
    outputs = [helper.make_empty_tensor_value_info("logits")]
    graph = helper.make_graph(b.nodes, "body", inputs, outputs, list(b.constants.values()))
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8))


def effective_field(graph: Graph, axis: int, dim: int) -> Array:
    """Which pixels along an axis of x change which cells along a dimension of the logits: bool [pixels, cells]."""
    shape = [size or 1 for size in graph.shapes["x"]]
    n = shape[axis]
    x = np.repeat(positive(*shape), n + 1, axis=0)
    for i in range(n):
        np.moveaxis(x, axis, 1)[i, i] += 5 + 5 * positive(*shape[1:axis], *shape[axis + 1 :])
    y = run(graph.model, {"x": x})["logits"].astype(np.float64)
    change = np.abs(y[:n] - y[n:])
    others = tuple(a for a in range(1, y.ndim) if a != dim % y.ndim)
    return np.asarray(change.max(others) > 1e-5 * np.abs(y).max())


def gradient_field(graph: Graph, axis: int, dim: int) -> Array:
    """The same by gradients, which are exactly zero where there is no influence."""
    shape, cells = ([size or 1 for size in graph.shapes[name]] for name in ("x", "logits"))
    n = cells[dim]
    one = np.eye(n, dtype=np.float32).reshape(n, *(n if a == dim % len(cells) else 1 for a in range(1, len(cells))))
    tail, _ = build_tail(graph, "x")
    feeds = {"activations": np.repeat(positive(*shape), n, axis=0), "seed": one * positive(*cells)}
    found = np.abs(run(tail, feeds)["gradients"])
    return np.asarray(found.max(tuple(a for a in (1, 2, 3) if a != axis)) > 0).T


def extent(pixels: Array, stride: float) -> tuple[float, float]:
    """The union of the pixels that influence each cell, relative to the cell's position: (low, high)."""
    cells = [(j, column.nonzero()[0]) for j, column in enumerate(pixels.T) if column.any()]
    return min(p[0] - j * stride for j, p in cells), max(p[-1] + 1 - j * stride for j, p in cells)


def check_field(
    graph: Graph, measure: Callable[[Graph, int, int], Array] = effective_field, exact: bool = True
) -> Field:
    """The field of the logits is, or unless `exact` contains, the pixels that influence them."""
    field = receptive_fields(graph)["logits"]
    for a, axis in ((field.y, 2), (field.x, 3)):
        pixels = measure(graph, axis, a.dim)
        if not np.isfinite(a.low):
            assert pixels.all()
            continue
        low, high = extent(pixels, a.stride)
        assert low >= a.low - 1e-6
        assert high <= a.high + 1e-6
        if exact:
            assert (low, high) == pytest.approx((a.low, a.high))
    return field


def convnext_block(b: NetworkBuilder, x: str) -> str:
    """ConvNeXt's block: channels last between two transposes."""
    y = b.channels_last(b.conv(x, 3, pads=[1] * 4))
    y = b.op.LayerNormalization(y, b.weights(4), b.weights(4), axis=-1)
    y = b.op.MatMul(b.op.Relu(b.op.MatMul(y, b.weights(4, 6))), b.weights(6, 4))
    return b.op.Add(x, b.op.Transpose(y, perm=[0, 3, 1, 2]))


def channel_shuffle(b: NetworkBuilder, x: str) -> str:
    """ShuffleNet's: channels are split into groups, which change places."""
    split = b.op.Transpose(b.op.Reshape(x, b.ints(-1, 2, 2, *SIZE)), perm=[0, 2, 1, 3, 4])
    return b.conv(b.op.Reshape(split, b.ints(-1, 4, *SIZE)), 3)


def squeeze_and_excitation(b: NetworkBuilder, x: str) -> str:
    """A linear layer on the global average scales the channels."""
    squeezed = b.op.Reshape(b.op.GlobalAveragePool(x), b.ints(-1, 4))
    gate = b.op.Reshape(b.op.Gemm(squeezed, b.weights(4, 4)), b.ints(-1, 4, 1, 1))
    return b.op.Mul(x, gate)


def focus(b: NetworkBuilder, x: str) -> str:
    """YOLO's: four times every second cell, as more channels."""
    axes, steps, end = b.ints(2, 3), b.ints(2, 2), b.ints(99, 99)
    parts = [b.op.Slice(x, b.ints(i, j), end, axes, steps) for i in (0, 1) for j in (0, 1)]
    return b.op.Concat(*parts, axis=1)


def adaptive_pool(b: NetworkBuilder, x: str) -> str:
    """Adaptive pooling to 6 x 4 as the product with two constant matrices."""
    rows, columns = np.kron(np.eye(6), np.ones((1, 4))), np.kron(np.eye(4), np.ones((5, 1)))
    both = b.op.MatMul(x, b.constant(columns.astype(np.float32)))
    return b.op.MatMul(b.constant(rows.astype(np.float32)), both)


def split_and_shift(b: NetworkBuilder, x: str) -> str:
    """Channels are split in two and added again, the second half shifted by one cell."""
    first, second = b.write("Split", (x, b.ints(2, 2)), 2, axis=1)
    padded = b.op.Pad(second, b.ints(0, 0, 0, 1, 0, 0, 0, 0))
    return b.op.Add(first, b.op.Slice(padded, b.ints(0), b.ints(SIZE[1]), b.ints(3)))


def gather_channel(b: NetworkBuilder, x: str) -> str:
    """One channel is added to all."""
    return b.op.Add(x, b.op.Unsqueeze(b.op.Gather(x, b.constant(np.array(1)), axis=1), b.ints(1)))


def bilinear(b: NetworkBuilder, x: str) -> str:
    """A resize to twice the height and three times the width."""
    return b.op.Resize(x, "", b.constant(np.array([1, 1, 2, 3], np.float32)), mode="linear")


def scatter_channel(b: NetworkBuilder, x: str) -> str:
    """Zeros replace the last channel of every image."""
    n = b.op.Shape(x, start=0, end=1)
    images = b.op.Range(b.constant(np.array(0)), b.op.Squeeze(n), b.constant(np.array(1)))
    index = b.op.Concat(
        b.op.Unsqueeze(images, b.ints(1)), b.op.Expand(b.ints(3), b.op.Concat(n, b.ints(1), axis=0)), axis=1
    )
    return b.op.ScatterND(x, index, b.op.ConstantOfShape(b.op.Concat(n, b.ints(*SIZE), axis=0)))


def both_ways(b: NetworkBuilder, x: str, axis: int) -> str:
    """The cumulative sums from both ends of an axis, added: together they depend on all its cells."""
    return b.op.Add(b.op.CumSum(x, b.ints(axis)), b.op.CumSum(x, b.ints(axis), reverse=1))


def reduce(operator: str, axis: int = 1, **attributes: int) -> Body:
    """A reduction over one axis."""
    return lambda b, x: getattr(b.op, operator)(x, b.ints(axis), **attributes)


# Operators with a finite field. Each is tested alone, and after a convolution with stride, which must be right too.
FINITE: Mapping[str, Body] = {
    "AveragePool": lambda b, x: b.op.AveragePool(x, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 0, 1]),
    "Concat": lambda b, x: b.op.Concat(x, b.conv(x, 3, pads=[1] * 4), axis=1),
    "ConvTranspose": lambda b, x: b.op.ConvTranspose(x, b.weights(4, 2, 4, 3), strides=[2, 1], pads=[1] * 4),
    "DepthToSpace": lambda b, x: b.op.DepthToSpace(x, blocksize=2),
    "Einsum": lambda b, x: b.op.Einsum(b.weights(4, 3), x, equation="cd,nchw->nhdw"),
    "Gather": gather_channel,
    "GatherElements": lambda b, x: b.op.GatherElements(x, b.filled(x, 3), axis=1),
    "LayerNormalization": convnext_block,
    "LayerNormalization last": lambda b, x: b.op.LayerNormalization(b.channels_last(x), b.weights(4), axis=3),
    "LogSoftmax": lambda b, x: b.op.LogSoftmax(x, axis=1),
    "LpNormalization": lambda b, x: b.op.LpNormalization(b.channels_last(x)),
    "LpPool": lambda b, x: b.op.LpPool(x, kernel_shape=[2, 3], strides=[1, 2]),
    "MatMul": adaptive_pool,
    "MaxPool": lambda b, x: b.op.MaxPool(x, kernel_shape=[3, 2], dilations=[2, 1], pads=[2, 0, 0, 1]),
    "Pad": lambda b, x: b.op.Pad(x, b.ints(2, 1, -1, 0), "", b.ints(2, 3)),
    "Pad reflect": lambda b, x: b.conv(b.op.Pad(x, b.ints(2, 2, 2, 2), "", b.ints(2, 3), mode="reflect"), 5),
    "Pad edge": lambda b, x: b.conv(b.op.Pad(x, b.ints(1, 1), "", b.ints(3), mode="edge"), 3),
    "ReduceL1": lambda b, x: b.op.Mul(x, reduce("ReduceL1")(b, x)),
    "ReduceL2": reduce("ReduceL2", keepdims=0),
    "ReduceLogSumExp": reduce("ReduceLogSumExp", axis=-3),
    "ReduceMax": lambda b, x: reduce("ReduceMax", axis=3, keepdims=0)(b, b.channels_last(x)),
    "ReduceMean": lambda b, x: b.op.Sub(b.channels_last(x), reduce("ReduceMean", axis=-1)(b, b.channels_last(x))),
    "ReduceMin": lambda b, x: reduce("ReduceMin")(b, b.op.Neg(x)),
    "ReduceProd": reduce("ReduceProd"),
    "ReduceSum": reduce("ReduceSum", keepdims=0),
    "ReduceSumSquare": reduce("ReduceSumSquare"),
    "Reshape": channel_shuffle,
    "Resize": bilinear,
    "Resize asymmetric": lambda b, x: b.op.Resize(
        x, "", "", b.ints(36, 15), axes=[2, 3], mode="linear", coordinate_transformation_mode="asymmetric"
    ),
    "Resize nearest": lambda b, x: b.op.Resize(x, "", "", b.ints(36, 15), axes=[2, 3]),
    "ScatterElements": lambda b, x: b.op.ScatterElements(
        x, b.filled(x, 3), b.op.ConstantOfShape(b.op.Shape(x)), axis=1
    ),
    "ScatterND": scatter_channel,
    "Slice": lambda b, x: b.op.Slice(x, b.ints(1, -9), b.ints(99, -1), b.ints(2, 3), b.ints(3, 2)),
    "Slice focus": focus,
    "Softmax": lambda b, x: b.op.Softmax(b.channels_last(x), axis=-1),
    "SpaceToDepth": lambda b, x: b.op.SpaceToDepth(x, blocksize=2),
    "Split": split_and_shift,
    "Squeeze": lambda b, x: b.op.Squeeze(b.op.Unsqueeze(x, b.ints(1, 5)), b.ints(5)),
    "Tile": lambda b, x: b.op.Tile(x, b.ints(1, 2, 1, 1)),
    "TopK": lambda b, x: b.write("TopK", (x, b.ints(2)), 2, axis=1)[0],
    "Transpose": lambda b, x: b.op.Transpose(x, perm=[0, 3, 1, 2]),
    "Unsqueeze": lambda b, x: b.op.Unsqueeze(b.channels_last(x), b.ints(3)),
}

# Operators after which every cell depends on the whole image; the strides (y, x) stay known.
UNBOUNDED: Mapping[str, tuple[Body, tuple[float, float]]] = {
    "CumSum": (lambda b, x: both_ways(b, both_ways(b, x, 2), -1), (1.0, 1.0)),
    "Expand": (lambda b, x: b.op.Expand(b.op.GlobalAveragePool(x), b.ints(1, 4, 12, 5)), (2.0, 4.0)),
    "GlobalAveragePool": (lambda b, x: b.op.GlobalAveragePool(x), (24.0, 20.0)),
    "GlobalLpPool": (lambda b, x: b.op.Add(x, b.op.GlobalLpPool(x)), (1.0, 1.0)),
    "GlobalMaxPool": (lambda b, x: b.op.Mul(x, b.op.GlobalMaxPool(x)), (1.0, 1.0)),
    "InstanceNormalization": (lambda b, x: b.op.InstanceNormalization(x, b.weights(4), b.weights(4)), (1.0, 1.0)),
    "LayerNormalization": (lambda b, x: b.op.LayerNormalization(x, b.weights(4, *SIZE), axis=1), (1.0, 1.0)),
    "ReduceSum": (
        lambda b, x: b.op.Resize(b.op.ReduceSum(x, b.ints(2, 3)), "", "", b.ints(6, 2), axes=[2, 3]),
        (4.0, 10.0),
    ),
    "squeeze and excitation": (squeeze_and_excitation, (1.0, 1.0)),
}


@pytest.mark.parametrize("name", FINITE)
def test_field_holds_the_pixels_that_change_a_cell(name: str) -> None:
    """Pixels outside the field of a cell never change it; those at its ends do."""
    body = FINITE[name]
    assert check_field(graph_of(body)).receptive_field is not None
    with_stride = graph_of(lambda b, x: body(b, b.conv(x, 3, strides=[2, 2], pads=[1] * 4)), size=(48, 40))
    check_field(with_stride, exact="Resize" not in name)


@pytest.mark.parametrize("name", UNBOUNDED)
def test_unbounded_field_keeps_its_stride(name: str) -> None:
    body, stride = UNBOUNDED[name]
    field = check_field(graph_of(body))
    assert field.receptive_field is None
    assert field.stride == stride


def test_every_rule_is_tested() -> None:
    bodies = {**FINITE, **{name: body for name, (body, _) in UNBOUNDED.items()}}
    tested = {node.op_type for body in bodies.values() for node in graph_of(body).nodes}
    # ArgMax is not continuous, Flatten is a Reshape, RMSNormalization is newer than the opset.
    assert set(FIELD_RULES) - tested == {"ArgMax", "ArgMin", "Flatten", "RMSNormalization"}
    assert not ELEMENTWISE & set(FIELD_RULES)


def test_field_may_be_unbounded_along_one_axis() -> None:
    """Coordinate attention pools along x only."""
    field = check_field(graph_of(lambda b, x: b.op.Mul(x, b.op.ReduceMean(x, b.ints(3)))))
    assert np.isfinite(field.y.low)
    assert not np.isfinite(field.x.low)


@pytest.mark.parametrize(
    "repeat",
    [lambda b, x: b.op.Tile(x, b.ints(1, 1, 5, 2)), lambda b, x: b.op.Add(x, b.weights(1, 1, 3, 4))],
    ids=["Tile", "broadcast"],
)
def test_repeated_cell_has_field_of_all_copies(repeat: Body) -> None:
    """The field of a map whose cells are copies of one cell contains what that cell depends on."""
    check_field(graph_of(lambda b, x: repeat(b, b.conv(x, 5)), size=(5, 5)))


UNKNOWN: Mapping[str, tuple[Body, tuple[float, float] | None]] = {
    "Pad wrap": (lambda b, x: b.op.Pad(x, b.ints(1, 1, 1, 1), "", b.ints(2, 3), mode="wrap"), (1.0, 1.0)),
    "GridSample": (lambda b, x: b.op.GridSample(x, b.constant(np.zeros((1, 6, 5, 2), np.float32))), (4.0, 4.0)),
    "Einsum": (lambda b, x: b.op.Einsum(x, x, equation="nchw,nkhw->nck"), None),
    "GatherElements": (lambda b, x: b.op.GatherElements(x, b.filled(x, 3), axis=2), (1.0, 1.0)),
    "TopK": (lambda b, x: b.write("TopK", (x, b.ints(5)), 2, axis=3)[0], (1.0, 4.0)),
    "Flatten": (lambda b, x: b.op.Flatten(x), None),
    "transposed cells": (lambda b, x: b.op.Reshape(b.op.Reshape(x, b.ints(-1, 96, 20)), b.ints(-1, 4, 24, 20)), None),
    "Concat of rows": (lambda b, x: b.op.Concat(x, x, axis=2), (0.5, 1.0)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_operator_that_mixes_axes_has_no_finite_field(name: str) -> None:
    """A map with four axes is taken to show the image evenly, which gives its stride."""
    body, stride = UNKNOWN[name]
    field = receptive_fields(graph_of(body)).get("logits")
    assert field is None or field.receptive_field is None
    if stride:
        assert field is not None
        assert field.stride == stride


@settings(max_examples=60, derandomize=True)
@given(st.data())
def test_chain_of_windows_has_field_of_its_gradients(data: st.DataObject) -> None:
    """Convolutions and poolings of any shape in sequence: the gradient is nonzero exactly in the field."""

    def body(b: NetworkBuilder, x: str) -> str:
        for _ in range(data.draw(st.integers(1, 4))):
            size, stride, dilation = (data.draw(st.integers(1, n)) for n in (4, 2, 2))
            span = dilation * (size - 1)
            pads = [data.draw(st.integers(0, min(2, span // 2)))] * 4
            window = {"strides": [stride] * 2, "pads": pads, "kernel_shape": [size] * 2}
            if dilation == 1 and data.draw(st.booleans()):
                x = b.op.AveragePool(x, **window)
            else:
                x = b.conv(x, size, channels=1, dilations=[dilation] * 2, **window)
        return x

    check_field(graph_of(body, 1, (120, 112)), gradient_field)
