"""AXIS_RULES: operator → from which axes of its inputs each axis of its output comes.

A rule gets the graph, a node and the number of an output. It returns for every axis of the output the axes of the
inputs whose position it keeps, as pairs (input, axis): cell i of the output then depends on cell i of each of them, or
on the cell that is as far along in a larger or smaller map. Axes over which an operator sums come from none.
"""

from collections.abc import Callable, Sequence
from typing import Any

from onnx import NodeProto

from percept_models.graph.field_rules import ELEMENTWISE
from percept_models.graph.reader import Graph, attributes

Sources = Sequence[tuple[int, int]]  # (input, axis)
AxisRule = Callable[[Graph, NodeProto, int], Sequence[Sources]]
END = 2**31 - 1  # exporters write greater numbers for the end of a slice too


def axis_sources(graph: Graph, node: NodeProto, output: int) -> Sequence[Sources] | None:
    """Return for every axis of an output the axes that it comes from; None where the operator has no rule."""
    rule = elementwise if node.op_type in ELEMENTWISE else AXIS_RULES.get(node.op_type)
    if rule is None or graph.shapes.get(node.input[0]) is None:
        return None
    try:
        return rule(graph, node, output)
    except (IndexError, KeyError, ValueError):  # a shape that is not known
        return None


def selected_range(graph: Graph, node: NodeProto, output: int, axis: int) -> range | None:
    """Return the cells of an axis that a Slice, a Split or a Gather keeps; None for other axes and operators."""
    given, shape = attributes(node), graph.shapes.get(node.input[0], ())
    size = shape[axis] if axis < len(shape) else None
    if size is None:
        return None
    if node.op_type == "Split" and given.get("axis", 0) % len(shape) == axis:
        sizes = [graph.shapes[name][axis] or 0 for name in node.output]
        return range(sum(sizes[:output]), sum(sizes[: output + 1]))
    if node.op_type == "Slice":
        return _slice_range(graph, node, axis, size)
    if node.op_type == "Gather" and given.get("axis", 0) % len(shape) == axis:
        indices = graph.value(node.input[1])
        if indices is not None and indices.size == 1:
            return range(int(indices.item()) % size, int(indices.item()) % size + 1)
    return None


def _slice_range(graph: Graph, node: NodeProto, axis: int, size: int) -> range | None:
    values = [graph.value(name) for name in node.input[1:]]
    if any(value is None for value in values):
        return None
    starts, ends, *rest = [[int(v) for v in value.ravel()] for value in values if value is not None]
    axes = [a % len(graph.shapes[node.input[0]]) for a in (rest[0] if rest else range(len(starts)))]
    if axis not in axes:
        return None
    i = axes.index(axis)
    step = rest[1][i] if len(rest) > 1 else 1
    return range(size)[slice(starts[i], min(ends[i], END), step)]


def elementwise(graph: Graph, node: NodeProto, _output: int) -> Sequence[Sources]:
    """Broadcasting aligns the axes from the last; an axis of size 1 is repeated."""
    after = graph.shapes[node.output[0]]
    return [_broadcast(graph, node, len(after) - axis, after[axis]) for axis in range(len(after))]


def _broadcast(graph: Graph, node: NodeProto, from_end: int, size: int | None) -> Sources:
    sources = []
    for i, name in enumerate(node.input):
        shape = graph.shapes.get(name, ())
        if from_end <= len(shape) and shape[-from_end] == size and size != 1:
            sources.append((i, len(shape) - from_end))
    return sources


def same_axes(graph: Graph, node: NodeProto, _output: int) -> Sequence[Sources]:
    """Every axis stays: normalizations, slices, pads, pooling and resizing."""
    rank = len(graph.shapes[node.input[0]])
    return [[(0, axis)] for axis in range(rank)]


def convolution(graph: Graph, node: NodeProto, _output: int) -> Sequence[Sources]:
    """The channels are summed; all other axes stay."""
    rank = len(graph.shapes[node.input[0]])
    return [[] if axis == 1 else [(0, axis)] for axis in range(rank)]


def global_pooling(graph: Graph, node: NodeProto, _output: int) -> Sequence[Sources]:
    """Only the batch and the channels stay."""
    rank = len(graph.shapes[node.input[0]])
    return [[(0, axis)] if axis < 2 else [] for axis in range(rank)]


def transpose(graph: Graph, node: NodeProto, _output: int) -> Sequence[Sources]:
    """The axes are permuted."""
    rank = len(graph.shapes[node.input[0]])
    return [[(0, axis)] for axis in attributes(node).get("perm", list(reversed(range(rank))))]


def matmul(graph: Graph, node: NodeProto, _output: int) -> Sequence[Sources]:
    """The last axis of the left matrix and the last but one of the right are summed."""
    left, right = (len(graph.shapes[name]) for name in node.input[:2])
    if min(left, right) < 2:
        raise ValueError("a product with a vector")
    after = graph.shapes[node.output[0]]
    batch = [_broadcast(graph, node, len(after) - axis, after[axis]) for axis in range(len(after) - 2)]
    return [*batch, [(0, left - 2)], [(1, right - 1)]]


def gemm(_graph: Graph, node: NodeProto, _output: int) -> Sequence[Sources]:
    """A product of two matrices, each of which may be transposed."""
    given = attributes(node)
    return [[(0, 1 if given.get("transA", 0) else 0)], [(1, 0 if given.get("transB", 0) else 1)]]


def reduction(graph: Graph, node: NodeProto, _output: int) -> Sequence[Sources]:
    """The axes that are reduced go, or stay with size 1."""
    given, rank = attributes(node), len(graph.shapes[node.input[0]])
    keepdims = given.get("keepdims", 1)
    if node.op_type in ("ArgMax", "ArgMin"):
        axes = [given.get("axis", 0)]
    else:
        axes = given.get("axes") or _integers(graph, node, 1) or list(range(rank))
    reduced = {axis % rank for axis in axes}
    return [[] if axis in reduced else [(0, axis)] for axis in range(rank) if keepdims or axis not in reduced]


def concat(graph: Graph, node: NodeProto, _output: int) -> Sequence[Sources]:
    """All axes stay, also the one along which the inputs are joined."""
    rank = len(graph.shapes[node.input[0]])
    return [[(i, axis) for i in range(len(node.input))] for axis in range(rank)]


def gather(graph: Graph, node: NodeProto, _output: int) -> Sequence[Sources]:
    """The indices take the place of the axis from which they select."""
    rank, added = len(graph.shapes[node.input[0]]), len(graph.shapes[node.input[1]])
    selected = attributes(node).get("axis", 0) % rank
    before, after = ([[(0, axis)] for axis in axes] for axes in (range(selected), range(selected + 1, rank)))
    return [*before, *([] for _ in range(added)), *after]


def einsum(_graph: Graph, node: NodeProto, _output: int) -> Sequence[Sources]:
    """An axis of the output comes from those of the same letter."""
    terms, _, result = attributes(node)["equation"].replace(" ", "").partition("->")
    if not result or "." in terms:
        raise ValueError("the letters of the output are implicit")
    return [[(i, term.index(a)) for i, term in enumerate(terms.split(",")) if a in term] for a in result]


def tile(graph: Graph, node: NodeProto, _output: int) -> Sequence[Sources]:
    """An axis that is repeated is another one."""
    before, after = graph.shapes[node.input[0]], graph.shapes[node.output[0]]
    return [[(0, axis)] if before[axis] == after[axis] else [] for axis in range(len(after))]


def _integers(graph: Graph, node: NodeProto, i: int) -> list[int] | None:
    value: Any = graph.value(node.input[i]) if len(node.input) > i and node.input[i] else None
    return None if value is None else [int(v) for v in value.ravel()]


AXIS_RULES: dict[str, AxisRule] = {
    "ArgMax": reduction,
    "ArgMin": reduction,
    "AveragePool": same_axes,
    "Concat": concat,
    "Conv": convolution,
    "ConvTranspose": convolution,
    "CumSum": same_axes,
    "DepthToSpace": convolution,
    "Einsum": einsum,
    "Gather": gather,
    "Gemm": gemm,
    "GlobalAveragePool": global_pooling,
    "GlobalLpPool": global_pooling,
    "GlobalMaxPool": global_pooling,
    "GroupNormalization": same_axes,
    "InstanceNormalization": same_axes,
    "LayerNormalization": same_axes,
    "LogSoftmax": same_axes,
    "LpNormalization": same_axes,
    "LpPool": same_axes,
    "MatMul": matmul,
    "MaxPool": same_axes,
    "Pad": same_axes,
    "RMSNormalization": same_axes,
    "ReduceL1": reduction,
    "ReduceL2": reduction,
    "ReduceLogSumExp": reduction,
    "ReduceMax": reduction,
    "ReduceMean": reduction,
    "ReduceMin": reduction,
    "ReduceProd": reduction,
    "ReduceSum": reduction,
    "ReduceSumSquare": reduction,
    "Resize": same_axes,
    "Slice": same_axes,
    "Softmax": same_axes,
    "SpaceToDepth": convolution,
    "Split": same_axes,
    "Tile": tile,
    "Transpose": transpose,
}
