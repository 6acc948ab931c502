"""The end of a classifier or segmenter: the output of the file is converted to logits [N,K] or [N,K,h,w].

`remove_activation` removes the softmax or sigmoid; `convert_output` permutes the axes and turns a mask of one channel
into two classes. Both get the shape of an output that was computed, because the declared shape may be missing or wrong.
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
from percept_models.importer.model_file import opset_version
from percept_models.importer.signature import CHANNELS_FIRST, CHANNELS_LAST, ImageInput

ACTIVATIONS = frozenset({"LogSoftmax", "Sigmoid", "Softmax"})
RESHAPING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
FLATTENED = "the output was flattened to [N,K]"
MOVED = "the classes of the output were moved from the last axis to the second"
PADDED = "a channel of zeros was put before the only channel of the output, which makes two classes"


class ClassAxis(NamedTuple):
    """The axis of the classes in a shape; -1 where its size is 1 and other axes of size 1 look the same."""

    axis: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ConvertedOutput:
    """What was changed, in words; the shape of the logits without the batch; and a function that reverts the change."""

    notes: tuple[str, ...]
    shape: tuple[int, ...]
    undo: Undo


def remove_activation(model: ModelProto, shape: Sequence[int], image: ImageInput) -> str | None:
    """Remove the activation over the classes from the only output, in place; return its operator, or None.

    `shape` is that of the output. Between the activation and the output axes may be permuted, and axes of size 1 added
    or removed.
    """
    graph = Graph(model)
    name, class_axis = graph.outputs[0], _class_axis(shape, image)
    while class_axis and (node := graph.producer.get(name)) and len(graph.consumers.get(name, ())) < 2:
        if node.op_type in ACTIVATIONS:
            if node.op_type != "Sigmoid" and not _acts_on(node, class_axis, opset_version(model)):
                return None
            _bypass(model, node)
            return node.op_type
        name, class_axis = node.input[0] if node.input else "", _axis_in_input(node, class_axis, graph)
    return None


def convert_output(model: ModelProto, shape: Sequence[int], image: ImageInput) -> ConvertedOutput:
    """Convert the output to [N,K] or [N,K,h,w], in place; raise `BundleError` where it cannot be either."""
    if len(shape) == 2:
        return ConvertedOutput((), tuple(shape[1:]), lambda y: y)
    if len(shape) != 4:
        described = ",".join(["N", *map(str, shape[1:])])
        raise BundleError(f"the output [{described}] is neither [N,K] nor [N,K,h,w]: name another tensor with --output")
    if 1 == shape[2] == shape[3] or 1 == shape[1] == shape[2]:
        _append(model, "Flatten")
        return ConvertedOutput((FLATTENED,), (prod(shape[1:]),), lambda y: y.reshape(len(y), *shape[1:]))
    channels_last = _has_channels_last(shape, image)
    k, h, w = (shape[3], shape[1], shape[2]) if channels_last else shape[1:]
    if channels_last:
        _append(model, "Transpose", perm=CHANNELS_FIRST)
    if k == 1:
        _append(model, "Pad", np.array([0, 1, 0, 0, 0, 0, 0, 0]))

    def undo(y: Array) -> Array:
        y = y[:, 1:] if k == 1 else y
        return y.transpose(CHANNELS_LAST) if channels_last else y

    return ConvertedOutput((*[MOVED] * channels_last, *[PADDED] * (k == 1)), (max(k, 2), h, w), undo)


def _has_channels_last(shape: Sequence[int], image: ImageInput) -> bool:
    """Return whether the classes are the last axis of [N,?,?,?]: the other two have the aspect ratio of the image."""

    def fits(h: int, w: int) -> bool:
        return abs(h * image.width - w * image.height) < max(image.width, image.height)  # up to one cell

    first, last = fits(shape[2], shape[3]), fits(shape[1], shape[2])
    return last and (image.layout == "NHWC" or not first)


def _class_axis(shape: Sequence[int], image: ImageInput) -> ClassAxis | None:
    """Return the axis of the classes in an output; None where its rank is neither 2 nor 4."""
    if len(shape) == 4:
        channels_last = 1 == shape[1] == shape[2] != shape[3] or _has_channels_last(shape, image)
        return ClassAxis(3 if channels_last else 1, tuple(shape))
    return ClassAxis(1, tuple(shape)) if len(shape) == 2 else None


def _acts_on(node: NodeProto, class_axis: ClassAxis, version: int) -> bool:
    """Return whether a Softmax normalizes over this axis and no other."""
    axis, shape = class_axis
    if version >= 13:
        return bool(attributes(node).get("axis", -1) % len(shape) == axis)
    first = attributes(node).get("axis", 1) % len(shape)  # before opset 13 it was over all axes from this one on
    return first <= axis and all(n == 1 for i, n in enumerate(shape) if i >= first and i != axis)


def _axis_in_input(node: NodeProto, class_axis: ClassAxis, graph: Graph) -> ClassAxis | None:
    """Return where an axis of a node's output lies in its input; None where that is not certain."""
    axis, y = class_axis
    if node.op_type == "Identity":
        return class_axis
    if node.op_type == "Transpose":
        permutation = attributes(node).get("perm", [*reversed(range(len(y)))])
        return ClassAxis(int(permutation[axis]), tuple(y[permutation.index(i)] for i in range(len(y))))
    x = graph.shapes.get(node.input[0]) if node.op_type in RESHAPING else None
    if x is None or None in x:
        return None
    wide = [[i for i, n in enumerate(shape) if n != 1] for shape in (x, y)]
    if [x[i] for i in wide[0]] != [y[i] for i in wide[1]]:
        return None
    distinct = axis >= 0 and y[axis] != 1
    return ClassAxis(wide[0][wide[1].index(axis)] if distinct else -1, tuple(n or 0 for n in x))


def _bypass(model: ModelProto, removed: NodeProto) -> None:
    """Remove a node and connect the consumers of its output to its input."""
    x, y = removed.input[0], removed.output[0]
    model.graph.node.remove(removed)
    for node in model.graph.node:
        node.input[:] = [x if name == y else name for name in node.input]
    if model.graph.output[0].name == y:
        _set_output(model, x)


def _append(model: ModelProto, operator: str, value: Array | None = None, **options: Any) -> None:
    """Append an operator to the output; a transpose that reverts the last node removes that node instead."""
    x = model.graph.output[0].name
    producer = next(node for node in model.graph.node if x in node.output)
    if operator == producer.op_type == "Transpose" and attributes(producer).get("perm") == CHANNELS_LAST:
        return _set_output(model, producer.input[0])
    y = f"{x}.{operator}"
    inputs = [x]
    if value is not None:
        inputs.append(f"{y}.by")
        model.graph.initializer.append(numpy_helper.from_array(value, inputs[1]))
    model.graph.node.append(helper.make_node(operator, inputs, [y], **options))
    return _set_output(model, y)


def _set_output(model: ModelProto, name: str) -> None:
    """Make a tensor the only output."""
    del model.graph.output[:]
    model.graph.output.append(helper.make_empty_tensor_value_info(name))
