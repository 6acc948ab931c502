"""FIELD_RULES: operator → how it changes the receptive field along one spatial axis.

A rule gets the `Edge` from one input of a node to its output and the `Axis` of that input. It returns the axis of the
output, or None where the operator mixes (y, x) in a way that the field cannot describe; `ValueError` means the same.
Every rule is called once for y and once for x. In the docstrings, cell i is a cell of the output.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from onnx import NodeProto

from percept_models.graph.field import Axis, multiply, shift, unbounded
from percept_models.graph.interpolation import interpolation_matrix
from percept_models.graph.reader import Graph, Shape, attributes
from percept_models.graph.window import read_window


@dataclass(frozen=True)
class Edge:
    """One input of a node and its first output; a symbolic size is None in both shapes."""

    node: NodeProto
    graph: Graph
    source: str
    input_shape: Shape
    output_shape: Shape

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the node."""
        return attributes(self.node)

    def integers(self, i: int, attribute: str) -> list[int] | None:
        """Return integers that newer operators take as input i and older ones as an attribute; None where left out.

        Raises `ValueError` where they are computed.
        """
        inputs: Sequence[str] = self.node.input
        if len(inputs) <= i or not inputs[i]:
            return self.attributes.get(attribute)
        value = self.graph.value(inputs[i])
        if value is None:
            raise ValueError(f"{inputs[i]} is computed")
        return [int(v) for v in value.ravel()]

    def position(self, a: Axis) -> int:
        """Return the position of an axis in the input's shape, counted from the front."""
        return len(self.input_shape) + a.dim


FieldRule = Callable[[Edge, Axis], Axis | None]


def elementwise(e: Edge, a: Axis) -> Axis:
    """Elementwise operators: cell i depends on cell i; broadcasting may repeat a single cell."""
    return multiply(a, np.ones((e.output_shape[a.dim] or 1, 1))) if e.input_shape[a.dim] == 1 else a


def window(e: Edge, a: Axis) -> Axis | None:
    """Convolution and pooling: cell i depends on the cells from i*s - p to i*s - p + d(k-1)."""
    w, i = read_window(e.node, e.graph), e.position(a) - 2
    if i < 0:
        return None
    low, high = a.low - w.pads_begin[i] * a.stride, a.high + (w.span[i] - w.pads_begin[i]) * a.stride
    dilation = w.dilation[i] if w.kernel[i] > 1 else 1
    return a._replace(low=low, high=high, stride=a.stride * w.stride[i], dilation=max(a.dilation, dilation))


def conv_transpose(e: Edge, a: Axis) -> Axis | None:
    """Transposed convolution: cell i depends on the cells from (i + p - d(k-1)) / s to (i + p) / s."""
    w, i = read_window(e.node, e.graph), e.position(a) - 2
    if i < 0:
        return None
    stride = a.stride / w.stride[i]
    low, high = a.low + (w.pads_begin[i] - w.span[i]) * stride, a.high + w.pads_begin[i] * stride
    return a._replace(low=low, high=high, stride=stride)


def depth_to_space(e: Edge, a: Axis) -> Axis:
    """Channels become blocks of b x b cells: cell i depends on cell floor(i / b)."""
    stride = a.stride / e.attributes["blocksize"]
    return a._replace(low=a.low - (a.stride - stride), stride=stride)


def space_to_depth(e: Edge, a: Axis) -> Axis:
    """Blocks of b x b cells become channels: cell i depends on the cells from i*b to i*b + b - 1."""
    b = e.attributes["blocksize"]
    return a._replace(high=a.high + (b - 1) * a.stride, stride=a.stride * b)


def resize(e: Edge, a: Axis) -> Axis:
    """Interpolation: cell i depends on the cells with a nonzero weight in row i of the interpolation matrix."""
    matrix = interpolation_matrix(e.node, e.graph, e.position(a))
    return a if matrix is None else multiply(a, matrix)


def matmul(e: Edge, a: Axis) -> Axis | None:
    """A product sums over the last axis of its left operand and the last but one of the right, and keeps the others.

    A constant matrix may sum over y or x too: adaptive pooling is exported as such products.
    """
    left, right = e.node.input
    other, summed = (right, -1) if e.source == left else (left, -2)
    if left == right or min(len(e.input_shape), len(e.graph.shapes.get(other, ()))) < 2:
        return None
    if a.dim != summed:
        return elementwise(e, a)
    stored = e.graph.value(other)
    if stored is None:
        return None
    matrix = np.abs(stored).reshape(-1, *stored.shape[-2:]).max(0)
    return multiply(a, matrix.T if other == right else matrix)


def pad(e: Edge, a: Axis) -> Axis:
    """Padding by p before the map: cell i is cell i - p of the input. Unbounded where the map is repeated (`wrap`).

    A field that extends beyond the ends lies in the padding, which `reflect` and `edge` fill with the cells nearby.
    """
    rank = len(e.input_shape)
    pads = e.integers(1, "pads") or []
    axes = [axis % rank for axis in e.integers(3, "axes") or range(rank)]
    if e.position(a) not in axes:
        return a
    i = axes.index(e.position(a))
    shifted = shift(a, -pads[i])
    return unbounded(shifted) if e.attributes.get("mode") == "wrap" and max(pads[i :: len(axes)]) > 0 else shifted


def slices(e: Edge, a: Axis) -> Axis | None:
    """A slice from b in steps of s: cell i is cell b + i*s of the input. Unknown for negative steps."""
    starts = e.integers(1, "starts") or []
    axes = [axis % len(e.input_shape) for axis in e.integers(3, "axes") or range(len(starts))]
    if e.position(a) not in axes:
        return a
    which, size = axes.index(e.position(a)), e.input_shape[a.dim]
    start, step = starts[which], (e.integers(4, "steps") or [1] * len(axes))[which]
    if step < 1 or (size is None and start < 0):
        return None
    shifted = shift(a, max(start + (size or 0), 0) if start < 0 else start)
    return shifted._replace(stride=a.stride * step)


def global_pool(e: Edge, a: Axis) -> Axis | None:
    """Global pooling: the only cell depends on every pixel, and its stride is the whole map."""
    return unbounded(a, e.input_shape[a.dim]) if e.position(a) >= 2 else None


def reduction(e: Edge, a: Axis) -> Axis | None:
    """A reduction over this axis acts like global pooling; over other axes it changes nothing."""
    rank, keepdims = len(e.input_shape), e.attributes.get("keepdims", 1)
    axes = [e.attributes.get("axis", 0)] if e.node.op_type in ("ArgMax", "ArgMin") else e.integers(1, "axes")
    if not axes and e.attributes.get("noop_with_empty_axes", 0):
        return a
    reduced = {axis % rank for axis in axes or range(rank)}
    if e.position(a) in reduced:
        return unbounded(a, e.input_shape[a.dim]) if keepdims else None
    return a if keepdims else a._replace(dim=a.dim + sum(axis > e.position(a) for axis in reduced))


def softmax(e: Edge, a: Axis) -> Axis:
    """A softmax over this axis makes every cell depend on all; over other axes it changes nothing."""
    return unbounded(a) if e.position(a) == e.attributes.get("axis", -1) % len(e.input_shape) else a


def layer_normalization(e: Edge, a: Axis) -> Axis:
    """Normalization over all axes from a given one on: over the channels alone where they are the last axis."""
    return unbounded(a) if e.position(a) >= e.attributes.get("axis", -1) % len(e.input_shape) else a


def instance_normalization(e: Edge, a: Axis) -> Axis:
    """Normalization of every channel over all its cells."""
    return unbounded(a) if e.position(a) >= 2 else a


def concat(e: Edge, a: Axis) -> Axis | None:
    """Concat and Split along another axis change nothing; along this axis the field is unknown."""
    return None if e.position(a) == e.attributes.get("axis", 0) % len(e.input_shape) else a


def einsum(e: Edge, a: Axis) -> Axis | None:
    """An Einsum keeps the axes whose letters its output has, and sums over the others."""
    terms, arrow, output = e.attributes["equation"].replace(" ", "").partition("->")
    operands = [term for term, name in zip(terms.split(","), e.node.input, strict=True) if name == e.source]
    letter = operands[0][e.position(a)] if len(operands) == 1 and arrow and "." not in terms else ""
    if not letter or output.count(letter) != 1 or operands[0].count(letter) != 1:
        return None
    return a._replace(dim=output.index(letter) - len(output))


def cum_sum(e: Edge, a: Axis) -> Axis:
    """A cumulative sum over this axis depends on all cells before, or after; over other axes it changes nothing."""
    axes = e.integers(1, "axis")
    return unbounded(a) if axes is None or e.position(a) == axes[0] % len(e.input_shape) else a


def scattering(_: Edge, a: Axis) -> Axis:
    """Some elements are replaced or increased: cell i depends on cell i of the first input.

    The updates may be written to any cell, so that the field is unbounded where they depend on the image.
    """
    return a


def top_k(e: Edge, a: Axis) -> Axis | None:
    """The greatest cells along another axis, of channels for example, change nothing; along this one they move."""
    return None if e.position(a) == e.attributes.get("axis", -1) % len(e.input_shape) else a


def gather(e: Edge, a: Axis) -> Axis | None:
    """Gather along another axis, of a channel for example, changes nothing; along this axis the field is unknown."""
    axis, added = e.attributes.get("axis", 0) % len(e.input_shape), len(e.output_shape) - len(e.input_shape)
    if e.position(a) == axis:
        return None
    return a._replace(dim=a.dim - added) if e.position(a) < axis else a


def tile(e: Edge, a: Axis) -> Axis | None:
    """A map of n cells repeated r times: cell i is cell i mod n of the input."""
    repeats, size = (e.integers(1, "repeats") or [])[e.position(a)], e.input_shape[a.dim]
    if repeats == 1:
        return a
    return multiply(a, np.tile(np.eye(size), (repeats, 1))) if size else None


def transpose(e: Edge, a: Axis) -> Axis:
    """A permutation moves the axis to another place."""
    rank = len(e.input_shape)
    permutation = e.attributes.get("perm", list(reversed(range(rank))))
    return a._replace(dim=permutation.index(e.position(a)) - rank)


def reshape(e: Edge, a: Axis) -> Axis | None:
    """An axis survives a reshape that has an axis of the same size, followed by as many elements, in the output.

    So a reshape may split, merge or drop channels; an axis that it merges with another one is lost.
    """
    size, inner = e.input_shape[a.dim], _elements(e.input_shape[e.position(a) + 1 :])
    if size is None or inner is None:
        return None
    after = e.output_shape
    same = [i for i, n in enumerate(after) if n == size and _elements(after[i + 1 :]) == inner]
    dims = sorted((i - len(after) for i in same), key=lambda dim: abs(dim - a.dim))
    return a._replace(dim=dims[0]) if dims else None


def _elements(sizes: Shape) -> int | None:
    """Return the number of elements of a tensor of this shape; None where a size is symbolic."""
    return None if None in sizes else prod(n or 0 for n in sizes)


# Elementwise along (y, x); some of them normalize over channels or broadcast.
# fmt: off
ELEMENTWISE = frozenset({
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization", "BitShift", "Cast",
    "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "DequantizeLinear", "Div", "Dropout", "Elu", "Equal", "Erf",
    "Exp", "Expand", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf",
    "IsNaN", "LRN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg",
    "Not", "Or", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign",
    "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Trilu",
    "Where", "Xor",
})
# fmt: on

# An operator that is in neither table mixes (y, x) in an unknown way.
FIELD_RULES: dict[str, FieldRule] = {
    "ArgMax": reduction,
    "ArgMin": reduction,
    "AveragePool": window,
    "Concat": concat,
    "Conv": window,
    "ConvTranspose": conv_transpose,
    "CumSum": cum_sum,
    "DepthToSpace": depth_to_space,
    "Einsum": einsum,
    "Flatten": reshape,
    "Gather": gather,
    "GatherElements": concat,
    "GlobalAveragePool": global_pool,
    "GlobalLpPool": global_pool,
    "GlobalMaxPool": global_pool,
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "LogSoftmax": softmax,
    "LpNormalization": softmax,
    "LpPool": window,
    "MatMul": matmul,
    "MaxPool": window,
    "Pad": pad,
    "RMSNormalization": layer_normalization,
    "ReduceL1": reduction,
    "ReduceL2": reduction,
    "ReduceLogSumExp": reduction,
    "ReduceMax": reduction,
    "ReduceMean": reduction,
    "ReduceMin": reduction,
    "ReduceProd": reduction,
    "ReduceSum": reduction,
    "ReduceSumSquare": reduction,
    "Reshape": reshape,
    "Resize": resize,
    "ScatterElements": scattering,
    "ScatterND": scattering,
    "Slice": slices,
    "Softmax": softmax,
    "SpaceToDepth": space_to_depth,
    "Split": concat,
    "Squeeze": reshape,
    "Tile": tile,
    "TopK": top_k,
    "Transpose": transpose,
    "Unsqueeze": reshape,
}
SYMMETRIC: frozenset[FieldRule] = frozenset({concat, einsum, elementwise, matmul})  # every operand may be a feature map
