"""Make the batch of a graph symbolic and all its other sizes constant.

Exporters write the batch of their example image into the target shapes of Reshape, Resize and Expand, or compute these
shapes from the image at run time. `make_batch_symbolic` infers all shapes for two batch sizes, finds the axes that
follow the batch, and writes target shapes as constants that leave these axes open. This may go wrong for a graph that
mixes images: the caller must check the result by running it.

If the file's batch is open, stored targets that follow it are trusted; if it is fixed at n, stored targets that begin
with n are not. A `ShapePair` is the shape of a tensor at batch n (or 1) and at `FACTOR` times that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnx import ModelProto, NodeProto, helper, numpy_helper

from percept_models.graph.reader import Graph, Shape, attributes
from percept_models.graph.simplification import fold_constants

FACTOR = 7  # between the two batch sizes that are compared
MAX_TARGET_LENGTH = 15  # longer vectors are not target shapes


class ShapePair(NamedTuple):
    """The shape of a tensor at both batch sizes."""

    small: tuple[int, ...]
    large: tuple[int, ...]

    @property
    def open(self) -> list[int]:
        """The axes that follow the batch."""
        return [axis for axis, (a, b) in enumerate(zip(*self, strict=True)) if a != b]


@dataclass(frozen=True)
class Targets:
    """The target shapes that a model stores, by name, and the inferred shapes of all tensors at both batch sizes."""

    model: ModelProto
    fixed: int | None
    stored: dict[str, list[int]]
    small: Mapping[str, Shape]
    large: Mapping[str, Shape]

    def pairs(self, node: NodeProto) -> tuple[ShapePair, ShapePair] | None:
        """Return the shapes of the first input and of the output; None unless all are known."""
        shapes = [table.get(name) for name in (node.input[0], node.output[0]) for table in (self.small, self.large)]
        x0, x1, y0, y1 = (tuple(n for n in shape or (None,) if n is not None) for shape in shapes)
        if [x0, x1, y0, y1] != shapes or (len(x0), len(y0)) != (len(x1), len(y1)):
            return None
        return ShapePair(x0, x1), ShapePair(y0, y1)

    def set_target(self, node: NodeProto, i: int, target: Sequence[int]) -> bool:
        """Make input i of a node a constant of these integers; return whether that changes anything."""
        if self.stored.get(node.input[i]) == [*target]:
            return False
        node.input[i] = f"{node.output[0]}.target.{len(self.model.graph.initializer)}"
        self.model.graph.initializer.append(numpy_helper.from_array(np.array(target, np.int64), node.input[i]))
        self.stored[node.input[i]] = [*target]
        _remove_attribute(node, "allowzero")
        return True


def make_batch_symbolic(model: ModelProto, fixed: int | None) -> None:
    """Leave the batch open, in place: in the first axis of the only input and in every target that depends on it.

    `fixed` is the batch of the file where that is fixed.
    """
    nodes = [node for node in model.graph.node if node.op_type in TARGET_RULES]
    if fixed:
        targets = _read_targets(model, fixed)
        for node in nodes:
            _release_first_axis(targets, node, fixed)
    for _ in nodes:  # a corrected target may reveal the shapes that another one needs
        targets = _read_targets(model, fixed)
        changed = [TARGET_RULES[node.op_type](targets, node) for node in nodes]
        if not any(changed):
            break
    set_batch_size(model, "N")


def set_batch_size(model: ModelProto, n: int | str) -> None:
    """Set the batch of the only input, in place, and remove all other shapes that the model declares."""
    image = model.graph.input[0]
    kind = image.type.tensor_type
    sizes = [n, *(d.dim_value for d in kind.shape.dim[1:])]
    image.CopyFrom(helper.make_tensor_value_info(image.name, kind.elem_type, sizes))
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.CopyFrom(helper.make_empty_tensor_value_info(output.name))


def _read_targets(model: ModelProto, fixed: int | None) -> Targets:
    n = fixed or 1
    vectors = [t for t in model.graph.initializer if len(t.dims) == 1 and t.dims[0] <= MAX_TARGET_LENGTH]
    stored = {t.name: numpy_helper.to_array(t).tolist() for t in vectors}
    return Targets(model, fixed, stored, _shapes(model, n), _shapes(model, n * FACTOR))


def _shapes(model: ModelProto, n: int) -> Mapping[str, Shape]:
    """Return the shapes of all tensors at batch n, after folding what depends on it."""
    sized = ModelProto()
    sized.CopyFrom(model)
    set_batch_size(sized, n)
    folded = ir.from_proto(sized)
    fold_constants(folded)
    return Graph(ir.to_proto(folded)).shapes


def _release_first_axis(targets: Targets, node: NodeProto, n: int) -> None:
    """Let a stored target that begins with n copy the first axis of the input, where that is n too."""
    if node.op_type == "Resize":
        return
    given, target = targets.small.get(node.input[0], ()), targets.stored.get(node.input[1], [])
    if given[:1] != (n,) or target[:1] != [n]:
        return
    if node.op_type == "Expand" and len(given) == len(target):
        targets.set_target(node, 1, [1, *target[1:]])
    if node.op_type == "Reshape" and not (attributes(node).get("allowzero") and 0 in target):
        targets.set_target(node, 1, [0, *target[1:]])


def _reshape(targets: Targets, node: NodeProto) -> bool:
    """Write the target of a Reshape as a constant, open where the batch is; return whether anything changed."""
    pairs = targets.pairs(node)
    if pairs is None or len(pairs[0].open) != 1:
        return False
    x, y = pairs
    axis = _batch_axis(x, y, targets.stored.get(node.input[1]), targets.fixed)
    if axis is None:
        return False
    same = x.open == [axis] and x.small[axis] == y.small[axis]
    return targets.set_target(node, 1, [*y.small[:axis], 0 if same else -1, *y.small[axis + 1 :]])


def _batch_axis(x: ShapePair, y: ShapePair, target: list[int] | None, fixed: int | None) -> int | None:
    """Return the axis of y that must follow the batch; None where the stored target does that, or it is unknown."""
    (batch,) = x.open
    if len(y.open) == 1 and prod(x.large) == prod(y.large):
        if target is None:
            return y.open[0]
        return 0 if fixed and target[:1] == [fixed] and batch == 0 else None
    if batch == 0:
        return 0
    before = prod(x.small[:batch])
    return None if y.open else next((axis for axis in range(len(y.small)) if prod(y.small[:axis]) == before), None)


def _expand(targets: Targets, node: NodeProto) -> bool:
    """Write a computed target of an Expand as a constant that takes the batch from the input."""
    pairs = targets.pairs(node)
    if pairs is None or node.input[1] in targets.stored:
        return False
    x, y = pairs
    lead = len(y.small) - len(x.small)
    if y.open != [axis + lead for axis in x.open]:
        return False
    return targets.set_target(node, 1, [1 if axis in y.open else size for axis, size in enumerate(y.small)])


def _resize(targets: Targets, node: NodeProto) -> bool:
    """Write the sizes of a Resize as constants, for the axes that it changes, or else for the last two."""
    pairs, given = targets.pairs(node), attributes(node)
    if pairs is None or len(node.input) < 4:
        return False
    crops = given.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if crops or given.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    (x, y), rank = pairs, len(pairs[0].small)
    axes = [axis for axis in range(rank) if x.small[axis] != y.small[axis]] or [rank - 2, rank - 1]
    if {*axes} & {*x.open, *y.open}:
        return False
    node.input[1:3] = ["", ""]  # the region, which only a crop reads, and scales, which old exporters leave empty
    _remove_attribute(node, "axes")
    node.attribute.append(helper.make_attribute("axes", axes))
    return targets.set_target(node, 3, [y.small[axis] for axis in axes])


def _remove_attribute(node: NodeProto, name: str) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


TARGET_RULES: dict[str, Callable[[Targets, NodeProto], bool]] = {
    "Expand": _expand,
    "Reshape": _reshape,
    "Resize": _resize,
}
