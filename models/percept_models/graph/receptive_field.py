"""What each cell of a feature map can see: stride, dilation and receptive field, read from the ONNX graph.

In comes a graph, out goes a `Field` along (y, x) for every tensor that still has these two axes, wherever they
stand in it. Pixel i covers [i, i+1): the input itself has fields of size 1 whose first centre lies at 0.5. The field
is the theoretical one: whatever can have an influence counts, padding does not, whatever it is filled with, nor does
it cut the field; where the reach changes from cell to cell (after a resize) it is the union of all phases. Arithmetic
after Araujo et al. 2019, distill.pub/2019/computing-receptive-fields.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, inf, isfinite, prod
from typing import Any, NamedTuple

import numpy as np
from onnx import NodeProto

from percept.bundle.manifest import ReceptiveField
from percept_models.graph.errors import UnsupportedOperator
from percept_models.graph.interpolation import interpolation
from percept_models.graph.reader import Array, Graph, Shape, attributes, window


class Axis(NamedTuple):
    """Along one axis: the first cell sees the pixels [low, high), the next one the same `stride` further on.

    `low` and `high` are infinite where a cell sees everything. `dilation` is the greatest of any window so far.
    `place` says which axis of the tensor it is, counted from the end as broadcasting does: the last is -1.
    """

    low: float = 0.0
    high: float = 1.0
    stride: float = 1.0
    dilation: int = 1
    place: int = -1


Y, X = Axis(place=-2), Axis(place=-1)


@dataclass(frozen=True)
class Field:
    """The axes (y, x) of a feature map."""

    y: Axis = Y
    x: Axis = X

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


@dataclass(frozen=True)
class Passage:
    """The way from one input of a node to its output; the shapes on both sides have None where symbolic."""

    node: NodeProto
    graph: Graph
    source: str
    before: Shape
    after: Shape

    @cached_property
    def has(self) -> dict[str, Any]:
        """The attributes of the node."""
        return attributes(self.node)

    def integers(self, i: int, attribute: str) -> list[int] | None:
        """Integers that newer operators take as input i and older ones as an attribute; None where left out.

        Raises `ValueError` where they are computed.
        """
        inputs: Sequence[str] = self.node.input
        if len(inputs) <= i or not inputs[i]:
            return self.has.get(attribute)
        value = self.graph.value(inputs[i])
        if value is None:
            raise ValueError(f"{inputs[i]} is computed")
        return [int(v) for v in value.ravel()]

    def index(self, a: Axis) -> int:
        """Which axis of the input it is, counted from the front."""
        return len(self.before) + a.place


Step = Callable[[Passage, Axis], Axis | None]


def fields(graph: Graph) -> dict[str, Field]:
    """The field of every tensor that depends on the graph's image and has the axes (y, x).

    Behind an operator that mixes these axes in an unknown way a tensor may have seen everything. It is left out;
    but of one with four axes the last two are taken for (y, x), and its cells for evenly spread over the image.
    """
    images = [v.name for v in graph.model.graph.input if v.name not in graph.constants]
    found: dict[str, Field | None] = {name: _image(graph.shapes.get(name, ())) for name in images}
    for node in graph.nodes:
        given = [_pass(node, graph, name, found[name]) for name in node.input if name in found]
        if given and node.op_type not in SIZES:
            found |= dict.fromkeys(filter(None, node.output), union(given))
    lost = [name for name, field in found.items() if field is None]
    found |= {name: _even(graph, images[0], name) for name in lost}
    return {name: field for name, field in found.items() if field is not None}


def _image(shape: Shape) -> Field:
    """The axes of an image: pixels [N,H,W,3], or else [N,C,H,W]."""
    last = len(shape) == 4 and shape[-1] in (1, 3, 4) and shape[1] not in (1, 3, 4)
    return Field(Axis(place=-3), Axis(place=-2)) if last else Field()


def _even(graph: Graph, image: str, name: str) -> Field | None:
    """The field of a map [N,C,h,w] of which no more is known than that it shows the whole image."""
    shape, full = graph.shapes.get(name, ()), graph.shapes.get(image, ())
    if len(shape) != 4 or len(full) != 4:
        return None
    pixel = _image(full)
    height, width = full[pixel.y.place] or 1, full[pixel.x.place] or 1
    return Field(
        Axis(-inf, inf, height / (shape[-2] or 1), place=-2),
        Axis(-inf, inf, width / (shape[-1] or 1), place=-1),
    )


def _pass(node: NodeProto, graph: Graph, source: str, field: Field | None) -> Field | None:
    """The field of a node's output, as far as it comes from one input; None where the node mixes (y, x)."""
    step = keep if node.op_type in ELEMENTWISE else STEPS.get(node.op_type)
    shapes = [graph.shapes.get(name) for name in (source, node.output[0])]
    if field is None or step is None or None in shapes:
        return None
    before, after = (shape or () for shape in shapes)
    p = Passage(node, graph, source, before, after)
    if source != node.input[0] and step not in SYMMETRIC:
        return None
    try:
        y, x = step(p, field.y), step(p, field.x)
    except (ValueError, UnsupportedOperator):
        return None
    return Field(y, x) if y and x else None


def union(many: Sequence[Field | None]) -> Field | None:
    """What a cell sees that merges the cells of several maps: everything where one is not known.

    None where none is known, or (y, x) are not the same axes in all.
    """
    known = [field for field in many if field is not None]
    if len({(f.y.place, f.x.place) for f in known}) != 1:
        return None
    y, x = _union([f.y for f in known]), _union([f.x for f in known])
    return Field(y, x) if len(known) == len(many) else Field(whole(y), whole(x))


def _union(axes: Sequence[Axis]) -> Axis:
    return Axis(
        min(a.low for a in axes),
        max(a.high for a in axes),
        min(a.stride for a in axes),
        max(a.dilation for a in axes),
        axes[0].place,
    )


def whole(a: Axis, cells: int | None = 1) -> Axis:
    """Every cell sees all there is, and stands for so many."""
    return a._replace(low=-inf, high=inf, stride=a.stride * (cells or 1))


def blend(a: Axis, matrix: Array) -> Axis:
    """y = P x along the axis: cell i sees the cells j of which P_ij is not zero."""
    outputs, inputs = matrix.shape
    seen = np.abs(matrix) > 1e-6 * np.abs(matrix).max()
    place = np.arange(outputs) * (inputs / outputs)
    low = float((seen.argmax(1) - place).min())
    high = float((inputs - 1 - seen[:, ::-1].argmax(1) - place).max())
    return a._replace(low=a.low + low * a.stride, high=a.high + high * a.stride, stride=a.stride * inputs / outputs)


def shift(a: Axis, cells: int) -> Axis:
    """Cell i is what cell i + `cells` was."""
    return a._replace(low=a.low + cells * a.stride, high=a.high + cells * a.stride)


def keep(p: Passage, a: Axis) -> Axis:
    """Elementwise operators: every cell stays where it is; a single one may be repeated by broadcasting."""
    return blend(a, np.ones((p.after[a.place] or 1, 1))) if p.before[a.place] == 1 else a


def slide(p: Passage, a: Axis) -> Axis | None:
    """Convolution and pooling: cell i sees the cells from i*s - p to i*s - p + d(k-1)."""
    w, i = window(p.node, p.graph), p.index(a) - 2
    if i < 0:
        return None
    low, high = a.low - w.begin[i] * a.stride, a.high + (w.reach[i] - w.begin[i]) * a.stride
    dilation = w.dilation[i] if w.kernel[i] > 1 else 1
    return a._replace(low=low, high=high, stride=a.stride * w.stride[i], dilation=max(a.dilation, dilation))


def spread(p: Passage, a: Axis) -> Axis | None:
    """Transposed convolution: cell i sees the cells from (i + p - d(k-1)) / s to (i + p) / s."""
    w, i = window(p.node, p.graph), p.index(a) - 2
    if i < 0:
        return None
    fine = a.stride / w.stride[i]
    return a._replace(low=a.low + (w.begin[i] - w.reach[i]) * fine, high=a.high + w.begin[i] * fine, stride=fine)


def finer(p: Passage, a: Axis) -> Axis:
    """Channels laid out as blocks of b x b cells: cell i sees the cell floor(i / b)."""
    fine = a.stride / p.has["blocksize"]
    return a._replace(low=a.low - (a.stride - fine), stride=fine)


def coarser(p: Passage, a: Axis) -> Axis:
    """Blocks of b x b cells laid out as channels: cell i sees the cells from i*b to i*b + b - 1."""
    b = p.has["blocksize"]
    return a._replace(high=a.high + (b - 1) * a.stride, stride=a.stride * b)


def resize(p: Passage, a: Axis) -> Axis:
    """Interpolation: cell i sees the cells with which its row of the interpolation matrix is not zero."""
    matrix = interpolation(p.node, p.graph, p.index(a))
    return a if matrix is None else blend(a, matrix)


def matmul(p: Passage, a: Axis) -> Axis | None:
    """A product sums over the last axis of its left operand and the last but one of the right, and keeps the rest.

    A constant matrix may sum over y or x too: adaptive pooling is written so.
    """
    left, right = p.node.input
    other, summed = (right, -1) if p.source == left else (left, -2)
    if left == right or min(len(p.before), len(p.graph.shapes.get(other, ()))) < 2:
        return None
    if a.place != summed:
        return keep(p, a)
    stored = p.graph.value(other)
    if stored is None:
        return None
    matrix = np.abs(stored).reshape(-1, *stored.shape[-2:]).max(0)
    return blend(a, matrix.T if other == right else matrix)


def pad(p: Passage, a: Axis) -> Axis:
    """Padding p before the map: cell i is what cell i - p was."""
    rank = len(p.before)
    pads = p.integers(1, "pads") or []
    axes = [axis % rank for axis in p.integers(3, "axes") or range(rank)]
    return shift(a, -pads[axes.index(p.index(a))]) if p.index(a) in axes else a


def cut(p: Passage, a: Axis) -> Axis | None:
    """A slice from b in steps of s: cell i is what cell b + i*s was. Unknown where it is read backwards."""
    starts = p.integers(1, "starts") or []
    axes = [axis % len(p.before) for axis in p.integers(3, "axes") or range(len(starts))]
    if p.index(a) not in axes:
        return a
    which, size = axes.index(p.index(a)), p.before[a.place]
    start, step = starts[which], (p.integers(4, "steps") or [1] * len(axes))[which]
    if step < 1 or (size is None and start < 0):
        return None
    moved = shift(a, max(start + (size or 0), 0) if start < 0 else start)
    return moved._replace(stride=a.stride * step)


def everything(p: Passage, a: Axis) -> Axis | None:
    """Global pooling: the one cell sees all, and its stride is the whole map."""
    return whole(a, p.before[a.place]) if p.index(a) >= 2 else None


def reduced(p: Passage, a: Axis) -> Axis | None:
    """A reduction: over other axes it changes nothing, over this one it is a global pooling."""
    rank, kept = len(p.before), p.has.get("keepdims", 1)
    axes = [p.has.get("axis", 0)] if p.node.op_type in ("ArgMax", "ArgMin") else p.integers(1, "axes")
    if not axes and p.has.get("noop_with_empty_axes", 0):
        return a
    over = {axis % rank for axis in axes or range(rank)}
    if p.index(a) in over:
        return whole(a, p.before[a.place]) if kept else None
    return a if kept else a._replace(place=a.place + sum(axis > p.index(a) for axis in over))


def along(p: Passage, a: Axis) -> Axis:
    """A softmax: over other axes it changes nothing, over this one every cell depends on all."""
    return whole(a) if p.index(a) == p.has.get("axis", -1) % len(p.before) else a


def from_axis(p: Passage, a: Axis) -> Axis:
    """A standardization of all axes from a given one on: of the channels where they are last."""
    return whole(a) if p.index(a) >= p.has.get("axis", -1) % len(p.before) else a


def per_map(p: Passage, a: Axis) -> Axis:
    """A standardization of whole feature maps."""
    return whole(a) if p.index(a) >= 2 else a


def unless_along(p: Passage, a: Axis) -> Axis | None:
    """Tensors laid end to end, or cut in pieces: unknown along this axis, over others it changes nothing."""
    return None if p.index(a) == p.has.get("axis", 0) % len(p.before) else a


def picked(p: Passage, a: Axis) -> Axis | None:
    """Indices put in the place of an axis, a channel picked, say: unknown along this one."""
    axis, more = p.has.get("axis", 0) % len(p.before), len(p.after) - len(p.before)
    if p.index(a) == axis:
        return None
    return a._replace(place=a.place - more) if p.index(a) < axis else a


def tiled(p: Passage, a: Axis) -> Axis | None:
    """The map r times: cell i is what cell i mod n was."""
    repeats, size = (p.integers(1, "repeats") or [])[p.index(a)], p.before[a.place]
    if repeats == 1:
        return a
    return blend(a, np.tile(np.eye(size), (repeats, 1))) if size else None


def transposed(p: Passage, a: Axis) -> Axis:
    """The axis stands where the permutation puts it."""
    rank = len(p.before)
    permutation = p.has.get("perm", list(reversed(range(rank))))
    return a._replace(place=permutation.index(p.index(a)) - rank)


def reshaped(p: Passage, a: Axis) -> Axis | None:
    """An axis survives a change of shape where it is as long as before and as many numbers lie behind it.

    So channels may be split into groups, merged again, or given up; a map laid out as a row is lost.
    """
    size, behind = p.before[a.place], _count(p.before[p.index(a) + 1 :])
    if size is None or behind is None:
        return None
    same = [i for i, n in enumerate(p.after) if n == size and _count(p.after[i + 1 :]) == behind]
    places = sorted((i - len(p.after) for i in same), key=lambda place: abs(place - a.place))
    return a._replace(place=places[0]) if places else None


def _count(sizes: Shape) -> int | None:
    """How many numbers a tensor of these sizes holds; None where one is symbolic."""
    return None if None in sizes else prod(n or 0 for n in sizes)


# Their outputs do not depend on what the pixels show.
SIZES = frozenset({"Shape", "Size"})

# Elementwise in (y, x), that is.
# fmt: off
ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "BatchNormalization", "BitShift", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos",
    "DequantizeLinear", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Expand", "Floor", "Gelu", "Greater",
    "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LRN", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow",
    "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Softplus",
    "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
})
# fmt: on

# What is neither here nor elementwise mixes (y, x) in an unknown way.
STEPS: dict[str, Step] = {
    "ArgMax": reduced,
    "ArgMin": reduced,
    "AveragePool": slide,
    "Concat": unless_along,
    "Conv": slide,
    "ConvTranspose": spread,
    "DepthToSpace": finer,
    "Flatten": reshaped,
    "Gather": picked,
    "GlobalAveragePool": everything,
    "GlobalLpPool": everything,
    "GlobalMaxPool": everything,
    "InstanceNormalization": per_map,
    "LayerNormalization": from_axis,
    "LogSoftmax": along,
    "LpNormalization": along,
    "LpPool": slide,
    "MatMul": matmul,
    "MaxPool": slide,
    "Pad": pad,
    "RMSNormalization": from_axis,
    "ReduceL1": reduced,
    "ReduceL2": reduced,
    "ReduceLogSumExp": reduced,
    "ReduceMax": reduced,
    "ReduceMean": reduced,
    "ReduceMin": reduced,
    "ReduceProd": reduced,
    "ReduceSum": reduced,
    "ReduceSumSquare": reduced,
    "Reshape": reshaped,
    "Resize": resize,
    "Slice": cut,
    "Softmax": along,
    "SpaceToDepth": coarser,
    "Split": unless_along,
    "Squeeze": reshaped,
    "Tile": tiled,
    "Transpose": transposed,
    "Unsqueeze": reshaped,
}
SYMMETRIC: frozenset[Step] = frozenset({keep, matmul, unless_along})  # every operand may be a feature map
