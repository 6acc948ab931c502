"""The end of a classifier or segmenter: whatever the file gives becomes logits [N,K] or [N,K,h,w].

`bare` takes the activation off; `finish` writes the axes in order, and a mask of one channel as two classes. Both are
told of what shape the answer is, because the graph's own word for it may be missing or wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from percept.errors import BundleError
from percept_models.graph.reader import Array, Graph, attributes
from percept_models.importer.equivalence import Undo
from percept_models.importer.model_file import opset
from percept_models.importer.ports import Picture

ACTIVATIONS = frozenset({"LogSoftmax", "Sigmoid", "Softmax"})
FLAT = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
FLATTENED = "the output was flattened to [N,K]"
MOVED = "the classes of the output were moved from the last axis to the second"
PADDED = "the one channel of the output became two classes by a channel of zeros before it"
CHANNELS_FIRST, CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


class Place(NamedTuple):
    """An axis of a shape; -1 where it has only one cell and cannot be told from others."""

    axis: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class End:
    """What was done at the end: in words, the shape of the logits of one picture, and how to take it back."""

    notes: tuple[str, ...]
    shape: tuple[int, ...]
    undo: Undo


def bare(model: ModelProto, shape: Sequence[int], picture: Picture) -> str | None:
    """Take the activation over the classes off the only output, in place; its operator, or None where there is none.

    `shape` is that of the output. Axes may be permuted, and axes of size 1 come and go, between the activation and
    the output.
    """
    graph = Graph(model)
    name, place = graph.outputs[0], _classes(shape, picture)
    while place and (node := graph.producer.get(name)) and len(graph.consumers.get(name, ())) < 2:
        if node.op_type in ACTIVATIONS:
            if node.op_type != "Sigmoid" and not _over(node, place, opset(model)):
                return None
            _bypass(model, node)
            return node.op_type
        name, place = node.input[0] if node.input else "", _before(node, place, graph)
    return None


def finish(model: ModelProto, shape: Sequence[int], picture: Picture) -> End:
    """Make the output [N,K] or [N,K,h,w], in place; raises `BundleError` where it is neither."""
    if len(shape) == 2:
        return End((), tuple(shape[1:]), lambda y: y)
    if len(shape) != 4:
        said = ",".join(["N", *map(str, shape[1:])])
        raise BundleError(f"the output [{said}] is neither [N,K] nor [N,K,h,w]: name another tensor with --output")
    if 1 == shape[2] == shape[3] or 1 == shape[1] == shape[2]:
        _append(model, "Flatten")
        return End((FLATTENED,), (prod(shape[1:]),), lambda y: y.reshape(len(y), *shape[1:]))
    last = _last(shape, picture)
    k, h, w = (shape[3], shape[1], shape[2]) if last else shape[1:]
    if last:
        _append(model, "Transpose", perm=CHANNELS_FIRST)
    if k == 1:
        _append(model, "Pad", np.array([0, 1, 0, 0, 0, 0, 0, 0]))

    def undo(y: Array) -> Array:
        y = y[:, 1:] if k == 1 else y
        return y.transpose(CHANNELS_LAST) if last else y

    return End((*[MOVED] * last, *[PADDED] * (k == 1)), (max(k, 2), h, w), undo)


def _last(shape: Sequence[int], picture: Picture) -> bool:
    """Whether the classes of [N,?,?,?] are evidently the last axis: the other two are shaped as the picture is."""

    def fits(h: int, w: int) -> bool:
        return abs(h * picture.width - w * picture.height) < max(picture.width, picture.height)  # to a cell

    first, last = fits(shape[2], shape[3]), fits(shape[1], shape[2])
    return last and (picture.layout == "NHWC" or not first)


def _classes(shape: Sequence[int], picture: Picture) -> Place | None:
    """The axis of the classes in an output; None where there is none."""
    if len(shape) == 4:
        return Place(3 if 1 == shape[1] == shape[2] != shape[3] or _last(shape, picture) else 1, tuple(shape))
    return Place(1, tuple(shape)) if len(shape) == 2 else None


def _over(node: NodeProto, place: Place, version: int) -> bool:
    """Whether a Softmax acts over an axis and nothing else."""
    axis, shape = place
    if version >= 13:
        return bool(attributes(node).get("axis", -1) % len(shape) == axis)
    first = attributes(node).get("axis", 1) % len(shape)  # from here on all axes were one
    return first <= axis and all(n == 1 for i, n in enumerate(shape) if i >= first and i != axis)


def _before(node: NodeProto, place: Place, graph: Graph) -> Place | None:
    """Where an axis of a node's output lies in its input; None where that is not sure."""
    axis, y = place
    if node.op_type == "Identity":
        return place
    if node.op_type == "Transpose":
        permutation = attributes(node).get("perm", [*reversed(range(len(y)))])
        return Place(int(permutation[axis]), tuple(y[permutation.index(i)] for i in range(len(y))))
    x = graph.shapes.get(node.input[0]) if node.op_type in FLAT else None
    if x is None or None in x:
        return None
    wide = [[i for i, n in enumerate(shape) if n != 1] for shape in (x, y)]
    if [x[i] for i in wide[0]] != [y[i] for i in wide[1]]:
        return None
    told = axis >= 0 and y[axis] != 1
    return Place(wide[0][wide[1].index(axis)] if told else -1, tuple(n or 0 for n in x))


def _bypass(model: ModelProto, gone: NodeProto) -> None:
    """Let whoever reads a node's output read its input instead."""
    x, y = gone.input[0], gone.output[0]
    model.graph.node.remove(gone)
    for node in model.graph.node:
        node.input[:] = [x if name == y else name for name in node.input]
    if model.graph.output[0].name == y:
        _answer(model, x)


def _append(model: ModelProto, operator: str, value: Array | None = None, **how: Any) -> None:
    """Put an operator behind the output; a transpose that only takes back the last one takes it off."""
    x = model.graph.output[0].name
    maker = next(node for node in model.graph.node if x in node.output)
    if operator == maker.op_type == "Transpose" and attributes(maker).get("perm") == CHANNELS_LAST:
        return _answer(model, maker.input[0])
    y = f"{x}.{operator}"
    inputs = [x]
    if value is not None:
        inputs.append(f"{y}.by")
        model.graph.initializer.append(numpy_helper.from_array(value, inputs[1]))
    model.graph.node.append(helper.make_node(operator, inputs, [y], **how))
    return _answer(model, y)


def _answer(model: ModelProto, name: str) -> None:
    """Make a tensor the only output."""
    del model.graph.output[:]
    model.graph.output.append(helper.make_empty_tensor_value_info(name))
