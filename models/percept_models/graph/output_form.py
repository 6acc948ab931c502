"""The form of a tensor of classes: which of its axes are the classes, and which the cells (y, x) of a segmenter.

A form is found in the shape of an output, or from an argmax, and followed through the operators that permute axes or
add and remove axes of size 1. `Form.arrange` brings an array of that form to [N,K] or [N,K,h,w].
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from onnx import NodeProto

from percept.errors import BundleError
from percept_models.graph.factors import RESHAPES
from percept_models.graph.reader import FLOAT_TYPES, Array, Graph, attributes


class Form(NamedTuple):
    """The shape of a tensor [N,...], the axis of its classes, and the axes (y, x) of its cells, if it has cells.

    `classes` is None for one class without an axis. All other axes have the size 1.
    """

    shape: tuple[int, ...]
    classes: int | None
    cells: tuple[int, ...]

    @property
    def class_count(self) -> int:
        """K, the number of classes."""
        return 1 if self.classes is None else self.shape[self.classes]

    @property
    def cell_sizes(self) -> tuple[int, ...]:
        """(h, w), or nothing."""
        return tuple(self.shape[axis] for axis in self.cells)

    @property
    def permutation(self) -> list[int]:
        """The axes in the order N, K, h, w, and those of size 1 last."""
        named = [0, *([] if self.classes is None else [self.classes]), *self.cells]
        return named + [axis for axis in range(len(self.shape)) if axis not in named]

    @property
    def permuted_shape(self) -> tuple[int, ...]:
        """The shape with its axes in the order of `permutation`."""
        return tuple(self.shape[axis] for axis in self.permutation)

    def arrange(self, array: Array) -> Array:
        """An array of this form as [N,K] or [N,K,h,w]."""
        return array.transpose(self.permutation).reshape(len(array), self.class_count, *self.cell_sizes)

    def restore(self, arranged: Array) -> Array:
        """The array of this form that `arrange` gave this array for."""
        permuted = arranged.reshape(len(arranged), *self.permuted_shape[1:])
        return np.asarray(permuted.transpose(np.argsort(self.permutation)))


def forms_of_output(shape: Sequence[int], size: tuple[int, int], channels_last: bool = False) -> list[Form]:
    """The forms that an output may have, the most likely one first: the classes are the second axis or the last."""
    first = form_of_output(shape, size, channels_last)
    if len(shape) != 4 or not first.cells:
        return [first]
    other = Form(first.shape, *((1, (2, 3)) if first.classes == 3 else (3, (1, 2))))
    return [first, other] if fits(other.cell_sizes, size) else [first]


def form_of_output(shape: Sequence[int], size: tuple[int, int], channels_last: bool = False) -> Form:
    """The form of an output [N], [N,K], [N,h,w], [N,K,h,w] or [N,h,w,K]; `BundleError` where it is none of them.

    `size` (height, width) is that of the images, and `channels_last` says whether their channels are their last axis.
    Cells have the aspect ratio of the image. Without cells, axes of size 1 may stand anywhere.
    """
    shape, wide = tuple(shape), [axis for axis, n in enumerate(shape) if axis and n != 1]
    if len(shape) == 2 or (len(shape) in (1, 3, 4) and len(wide) < 2 and _has_no_cells(shape, wide)):
        classes = wide[0] if wide else 1
        return Form(shape, classes if len(shape) > 1 else None, ())
    if len(shape) == 3 and fits(shape[1:], size):
        return Form(shape, None, (1, 2))
    if len(shape) == 4:
        return Form(shape, 3, (1, 2)) if _has_classes_last(shape, size, channels_last) else Form(shape, 1, (2, 3))
    described = ",".join(["N", *map(str, shape[1:])])
    raise BundleError(f"the output [{described}] is neither [N,K] nor [N,K,h,w]: name another tensor with --output")


def _has_no_cells(shape: Sequence[int], wide: Sequence[int]) -> bool:
    """Whether an output of rank 1, 3 or 4 with at most one axis longer than 1 has classes there and no cells."""
    return len(shape) < 4 or not wide or wide[0] in (1, 3)


def fits(cells: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether cells (h, w) have the aspect ratio of the image, up to one cell."""
    (h, w), (height, width) = cells, size
    return abs(h * width - w * height) < max(size)


def _has_classes_last(shape: Sequence[int], size: tuple[int, int], channels_last: bool) -> bool:
    """Whether the classes are the last axis of [N,?,?,?]: the other two have the aspect ratio of the image."""
    return fits(shape[1:3], size) and (channels_last or not fits(shape[2:4], size))


def form_after_argmax(node: NodeProto, graph: Graph, output: Sequence[int]) -> Form:
    """The form of the tensor that an ArgMax reads, whose output has this shape after reshaping."""
    shape = graph.shapes.get(node.input[0], ())
    given = attributes(node)
    axis = given.get("axis", 0) % max(len(shape), 1)
    cells = tuple(i for i in range(1, len(shape)) if i != axis)
    if axis not in (1, len(shape) - 1) or len(cells) not in (0, 2) or None in shape[1:]:
        raise BundleError(f"the output is an ArgMax over axis {axis} of {len(shape)} axes, not over classes")
    if shape[axis] == 1:
        raise BundleError("the network ends in an ArgMax over one class, which is always class 0")
    return Form((output[0], *(n or 0 for n in shape[1:])), axis, cells)


def form_in_input(node: NodeProto, form: Form, graph: Graph) -> Form | None:
    """The form of a node's first input where the node only permutes axes or adds and removes those of size 1."""
    if node.op_type == "Identity" or (node.op_type == "Cast" and _is_float(node, graph)):
        return form
    if node.op_type == "Transpose":
        permutation = attributes(node).get("perm", [*reversed(range(len(form.shape)))])
        return _permuted(form, permutation) if permutation[0] == 0 else None
    shape = graph.shapes.get(node.input[0]) if node.input else None
    if shape is None or not shape or None in shape[1:] or not _keeps_order(node, shape, form.shape):
        return None
    return _reshaped(form, (form.shape[0], *(n or 0 for n in shape[1:])))


def _is_float(node: NodeProto, graph: Graph) -> bool:
    """Whether the input and the output of a node are floating-point numbers."""
    return {graph.types.get(node.input[0]), graph.types.get(node.output[0])} <= FLOAT_TYPES


def _keeps_order(node: NodeProto, before: Sequence[int | None], after: Sequence[int]) -> bool:
    """Whether a node that changes no axis longer than 1 leaves the order of the elements as it is."""
    if node.op_type == "Gather":  # the only entry of an axis
        return before[attributes(node).get("axis", 0)] == 1 and len(after) < len(before)
    return node.op_type in RESHAPES


def _permuted(form: Form, permutation: Sequence[int]) -> Form:
    shape = tuple(form.shape[list(permutation).index(i)] for i in range(len(permutation)))
    classes = None if form.classes is None else permutation[form.classes]
    return Form(shape, classes, tuple(permutation[axis] for axis in form.cells))


def _reshaped(form: Form, shape: tuple[int, ...]) -> Form | None:
    """The same form in a shape with other axes of size 1; None where classes or cells are not found again."""
    wide = [[axis for axis, n in enumerate(sizes) if axis and n != 1] for sizes in (shape, form.shape)]
    if [shape[i] for i in wide[0]] != [form.shape[i] for i in wide[1]] or 1 in form.cell_sizes:
        return None
    axes = dict(zip(wide[1], wide[0], strict=True))
    cells = tuple(axes[axis] for axis in form.cells)
    if form.classes in axes:
        return Form(shape, axes[form.classes], cells)
    unnamed = [axis for axis in range(1, len(shape)) if axis not in cells]
    return Form(shape, unnamed[0] if unnamed else None, cells)
