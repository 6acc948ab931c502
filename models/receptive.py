"""What each cell of a feature map can see: stride, dilation and receptive field, read from the ONNX graph.

In comes a graph, out goes a `Field` along (y, x) for every tensor that still has these two axes last. Pixel i
covers [i, i+1): the input itself has fields of size 1 whose first centre lies at 0.5. The field is the theoretical
one: whatever can have an influence counts, padding does not cut it, and where the reach changes from cell to cell
(after a resize) it is the union of all phases. Arithmetic after Araujo et al. 2019,
distill.pub/2019/computing-receptive-fields.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, isfinite
from typing import NamedTuple

import numpy as np
from onnx import NodeProto

from models.graph import Graph, attributes, window
from models.windows import interpolation
from service.manifest import ReceptiveField


class Axis(NamedTuple):
    """Along one axis: the first cell sees the pixels [low, high), the next one the same `stride` further on.

    `low` and `high` are infinite where a cell sees everything. `dilation` is the greatest of any window so far.
    """

    low: float = 0.0
    high: float = 1.0
    stride: float = 1.0
    dilation: int = 1


PIXEL = Axis()


@dataclass(frozen=True)
class Field:
    """The axes (y, x) of a feature map."""

    y: Axis = PIXEL
    x: Axis = PIXEL

    @property
    def receptive(self) -> ReceptiveField | None:
        """As the manifest writes it; None where it is not finite."""
        axes = (self.y, self.x)
        if not all(isfinite(a.low) and isfinite(a.high) for a in axes):
            return None
        size = [max(ceil(a.high - a.low - 1e-6), 1) for a in axes]
        start = [(a.low + a.high) / 2 for a in axes]
        return ReceptiveField(size=(size[0], size[1]), start=(start[0], start[1]))

    @property
    def stride(self) -> tuple[float, float]:
        """Input pixels from one cell to the next."""
        return self.y.stride, self.x.stride

    @property
    def dilation(self) -> tuple[int, int]:
        """The greatest dilation of any window on the way here."""
        return self.y.dilation, self.x.dilation


EVERYTHING = Field(Axis(-inf, inf), Axis(-inf, inf))
Step = Callable[[NodeProto, Graph, Field], Field | None]


def fields(graph: Graph) -> dict[str, Field]:
    """The field of every tensor that depends on the graph's input and has the axes (y, x).

    Tensors behind an operator that mixes these axes in an unknown way are left out, until they are merged with a
    feature map again: they may have seen everything.
    """
    images = [v.name for v in graph.model.graph.input if v.name not in graph.constants]
    found = dict.fromkeys(images, Field())
    lost: set[str] = set()
    for node in graph.nodes:
        step = STEPS.get(node.op_type, keep)
        given = [step(node, graph, found[name]) for name in node.input if name in found]
        known = [field for field in given if field is not None]
        if known and not lost.isdisjoint(node.input):
            known.append(EVERYTHING)
        if known and None not in given:
            found |= dict.fromkeys(node.output, union(known))
        elif given or not lost.isdisjoint(node.input):
            lost.update(node.output)
    return found


def union(many: Sequence[Field]) -> Field:
    """What a cell sees that merges the cells of several maps; one that sees everything has no say in the stride."""
    return Field(_union([f.y for f in many]), _union([f.x for f in many]))


def _union(axes: Sequence[Axis]) -> Axis:
    local = [a for a in axes if isfinite(a.low)] or axes
    return Axis(
        min(a.low for a in axes),
        max(a.high for a in axes),
        min(a.stride for a in local),
        max(a.dilation for a in axes),
    )


def keep(node: NodeProto, graph: Graph, field: Field) -> Field:
    """Elementwise operators, and the channels' axes moved: every cell stays where it is."""
    return field


def slide(node: NodeProto, graph: Graph, field: Field) -> Field:
    """Convolution and pooling: cell i sees the cells from i*s - p to i*s - p + d(k-1)."""
    w = window(node, graph)

    def axis(a: Axis, i: int) -> Axis:
        low = a.low - w.begin[i] * a.stride
        high = a.high + (w.reach[i] - w.begin[i]) * a.stride
        dilation = w.dilation[i] if w.kernel[i] > 1 else 1
        return Axis(low, high, a.stride * w.stride[i], max(a.dilation, dilation))

    return Field(axis(field.y, 0), axis(field.x, 1))


def spread(node: NodeProto, graph: Graph, field: Field) -> Field:
    """Transposed convolution: cell i sees the cells from (i + p - d(k-1)) / s to (i + p) / s."""
    w = window(node, graph)

    def axis(a: Axis, i: int) -> Axis:
        fine = a.stride / w.stride[i]
        return Axis(a.low + (w.begin[i] - w.reach[i]) * fine, a.high + w.begin[i] * fine, fine, a.dilation)

    return Field(axis(field.y, 0), axis(field.x, 1))


def resize(node: NodeProto, graph: Graph, field: Field) -> Field:
    """Interpolation: cell i sees the cells with which its row of the interpolation matrix is not zero."""

    def axis(a: Axis, which: int) -> Axis:
        matrix = interpolation(node, graph, which)
        if matrix is None:
            return a
        outputs, inputs = matrix.shape
        scale = inputs / outputs
        seen = np.abs(matrix) > 1e-6
        place = np.arange(outputs) * scale
        low = float((seen.argmax(1) - place).min())
        high = float((inputs - 1 - seen[:, ::-1].argmax(1) - place).max())
        return Axis(a.low + low * a.stride, a.high + high * a.stride, a.stride * scale, a.dilation)

    return Field(axis(field.y, 2), axis(field.x, 3))


def pad(node: NodeProto, graph: Graph, field: Field) -> Field | None:
    """Padding p before the map: cell i is what cell i - p was."""
    pads = graph.value(node.input[1])
    rank = len(graph.shapes[node.input[0]])
    if pads is None or len(pads) != 2 * rank or len(node.input) > 3:
        return None
    return Field(_shift(field.y, -int(pads[rank - 2])), _shift(field.x, -int(pads[rank - 1])))


def cut(node: NodeProto, graph: Graph, field: Field) -> Field | None:
    """A slice that begins at s: cell i is what cell i + s was. Unknown where the spatial step is not 1."""
    values = [graph.value(name) for name in node.input[1:] if name]
    if len(values) < 3 or any(v is None for v in values):
        return None
    rank = len(graph.shapes[node.input[0]])
    starts, axes = ([int(i) for i in v] for v in (values[0], values[2]) if v is not None)
    steps = [1] * len(axes) if len(values) < 4 or values[3] is None else list(values[3])
    for start, axis, step in zip(starts, axes, steps, strict=True):
        size = graph.shapes[node.input[0]][axis]
        place = axis % rank - (rank - 2)
        if rank != 4 or place < 0 or graph.shapes[node.output[0]] == graph.shapes[node.input[0]]:
            continue
        if step != 1 or size is None:
            return None
        first = max(start + size if start < 0 else start, 0)
        moved = _shift((field.y, field.x)[place], first)
        field = replace(field, y=moved) if place == 0 else replace(field, x=moved)
    return field


def _shift(a: Axis, cells: int) -> Axis:
    return a._replace(low=a.low + cells * a.stride, high=a.high + cells * a.stride)


def everything(node: NodeProto, graph: Graph, field: Field) -> Field:
    """Global pooling: the one cell sees all, and its stride is the whole map."""
    height, width = graph.shapes[node.input[0]][2:4]
    return Field(
        Axis(-inf, inf, field.y.stride * (height or 1), field.y.dilation),
        Axis(-inf, inf, field.x.stride * (width or 1), field.x.dilation),
    )


def reduced(node: NodeProto, graph: Graph, field: Field) -> Field | None:
    """A reduction: over channels it changes nothing, over (y, x) it is a global pooling, else unknown."""
    axes = graph.value(node.input[1]) if len(node.input) > 1 else attributes(node).get("axes")
    kept = attributes(node).get("keepdims", 1)
    rank = len(graph.shapes[node.input[0]])
    if axes is None or not kept or rank != 4:
        return None
    over = {int(a) % rank for a in axes}
    if over == {2, 3}:
        return everything(node, graph, field)
    return field if over == {1} else None


def same_map(node: NodeProto, graph: Graph, field: Field) -> Field | None:
    """A reshape keeps the map where the last two sizes stay (channels shuffled, say), else mixes it."""
    before, after = (graph.shapes.get(n, ()) for n in (node.input[0], node.output[0]))
    stays = len(before) >= 4 and len(after) >= 4 and before[-2:] == after[-2:]
    return field if stays else None


def mixed(node: NodeProto, graph: Graph, field: Field) -> Field | None:
    """The operator has no (y, x) behind it."""
    return None


# What is not here is elementwise, or moves channels only.
STEPS: dict[str, Step] = {
    "ArgMax": mixed,
    "AveragePool": slide,
    "Conv": slide,
    "ConvTranspose": spread,
    "Flatten": mixed,
    "Gather": mixed,
    "Gemm": mixed,
    "GlobalAveragePool": everything,
    "GlobalMaxPool": everything,
    "LpPool": slide,
    "MatMul": mixed,
    "MaxPool": slide,
    "Pad": pad,
    "ReduceMax": reduced,
    "ReduceMean": reduced,
    "ReduceSum": reduced,
    "Reshape": same_map,
    "Resize": resize,
    "Shape": mixed,
    "Slice": cut,
    "Squeeze": mixed,
    "Unsqueeze": mixed,
}
