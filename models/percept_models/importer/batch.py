"""A graph whose batch is fixed, or counted at run time, becomes one in which it is open and all else is fixed.

Exporters write the batch of their example picture into the targets of Reshape, Resize and Expand, or compute these
from the shape of the picture. `free` finds by shape inference at two sizes of the batch which axes follow it, and
writes the targets as constants that leave it open. It may be wrong about a graph that mixes pictures: whoever calls it
must prove the result by running it.

Where the file itself left the batch open, targets that follow it are trusted; where it is fixed at n, those that begin
with n are not. A `Pair` is the shape of a tensor at n, or 1, and at `OTHER` times that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnx import ModelProto, NodeProto, helper, numpy_helper

from percept_models.graph.reader import Graph, Shape, attributes
from percept_models.graph.simplify import fold

OTHER = 7


class Pair(NamedTuple):
    """The shape of a tensor at both sizes of the batch."""

    small: tuple[int, ...]
    large: tuple[int, ...]

    @property
    def open(self) -> list[int]:
        """The axes that follow the batch."""
        return [axis for axis, (a, b) in enumerate(zip(*self, strict=True)) if a != b]


@dataclass(frozen=True)
class Targets:
    """The targets that a model has stored, by name, and the shapes that inference finds for its tensors."""

    model: ModelProto
    fixed: int | None
    stored: dict[str, list[int]]
    small: Mapping[str, Shape]
    large: Mapping[str, Shape]

    def pairs(self, node: NodeProto) -> tuple[Pair, Pair] | None:
        """The shapes of the first input and of the output; None unless all are known."""
        shapes = [table.get(name) for name in (node.input[0], node.output[0]) for table in (self.small, self.large)]
        x0, x1, y0, y1 = (tuple(n for n in shape or (None,) if n is not None) for shape in shapes)
        if [x0, x1, y0, y1] != shapes or (len(x0), len(y0)) != (len(x1), len(y1)):
            return None
        return Pair(x0, x1), Pair(y0, y1)

    def aim(self, node: NodeProto, i: int, target: Sequence[int]) -> bool:
        """Make input i of a node a constant of these integers; true where it was not."""
        if self.stored.get(node.input[i]) == [*target]:
            return False
        node.input[i] = f"{node.output[0]}.target.{len(self.model.graph.initializer)}"
        self.model.graph.initializer.append(numpy_helper.from_array(np.array(target, np.int64), node.input[i]))
        self.stored[node.input[i]] = [*target]
        _forget(node, "allowzero")
        return True


def free(model: ModelProto, fixed: int | None) -> None:
    """Leave the first axis of the only input open, in place, and in every target that depends on it.

    `fixed` is the batch that the file knows alone.
    """
    nodes = [node for node in model.graph.node if node.op_type in RULES]
    if fixed:
        targets = _targets(model, fixed)
        for node in nodes:
            _loosen(targets, node, fixed)
    for _ in nodes:  # one that is put right may uncover the next
        targets = _targets(model, fixed)
        changed = [RULES[node.op_type](targets, node) for node in nodes]
        if not any(changed):
            break
    say(model, "N")


def say(model: ModelProto, n: int | str) -> None:
    """Write the size of the batch at the input, and forget all sizes that were said elsewhere."""
    image = model.graph.input[0]
    kind = image.type.tensor_type
    sizes = [n, *(d.dim_value for d in kind.shape.dim[1:])]
    image.CopyFrom(helper.make_tensor_value_info(image.name, kind.elem_type, sizes))
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.CopyFrom(helper.make_empty_tensor_value_info(output.name))


def _targets(model: ModelProto, fixed: int | None) -> Targets:
    n = fixed or 1
    short = [t for t in model.graph.initializer if len(t.dims) == 1 and t.dims[0] < 16]
    stored = {t.name: numpy_helper.to_array(t).tolist() for t in short}
    return Targets(model, fixed, stored, _shapes(model, n), _shapes(model, n * OTHER))


def _shapes(model: ModelProto, n: int) -> Mapping[str, Shape]:
    """The shapes of all tensors at a size of the batch, after all that follows from it is computed."""
    said = ModelProto()
    said.CopyFrom(model)
    say(said, n)
    folded = ir.from_proto(said)
    fold(folded)
    return Graph(ir.to_proto(folded)).shapes


def _loosen(targets: Targets, node: NodeProto, n: int) -> None:
    """Let a stored target that begins with n leave the first axis as it is, where that is n anyway."""
    if node.op_type == "Resize":
        return
    given, target = targets.small.get(node.input[0], ()), targets.stored.get(node.input[1], [])
    if given[:1] != (n,) or target[:1] != [n]:
        return
    if node.op_type == "Expand" and len(given) == len(target):
        targets.aim(node, 1, [1, *target[1:]])
    if node.op_type == "Reshape" and not (attributes(node).get("allowzero") and 0 in target):
        targets.aim(node, 1, [0, *target[1:]])


def _reshape(targets: Targets, node: NodeProto) -> bool:
    """Write the target of a Reshape as a constant, open where the batch is; whether anything was changed."""
    pairs = targets.pairs(node)
    if pairs is None or len(pairs[0].open) != 1:
        return False
    x, y = pairs
    axis = _place(x, y, targets.stored.get(node.input[1]), targets.fixed)
    if axis is None:
        return False
    same = x.open == [axis] and x.small[axis] == y.small[axis]
    return targets.aim(node, 1, [*y.small[:axis], 0 if same else -1, *y.small[axis + 1 :]])


def _place(x: Pair, y: Pair, target: list[int] | None, fixed: int | None) -> int | None:
    """The axis of y that must follow the batch; None where the stored target says so already, or nobody knows."""
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
    """Write a computed target of an Expand as a constant that leaves the batch to its input."""
    pairs = targets.pairs(node)
    if pairs is None or node.input[1] in targets.stored:
        return False
    x, y = pairs
    lead = len(y.small) - len(x.small)
    if y.open != [axis + lead for axis in x.open]:
        return False
    return targets.aim(node, 1, [1 if axis in y.open else size for axis, size in enumerate(y.small)])


def _resize(targets: Targets, node: NodeProto) -> bool:
    """Write the sizes of a Resize as constants for the axes that it changes, or for the last two."""
    pairs, has = targets.pairs(node), attributes(node)
    if pairs is None or len(node.input) < 4:
        return False
    crops = has.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if crops or has.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    (x, y), rank = pairs, len(pairs[0].small)
    axes = [axis for axis in range(rank) if x.small[axis] != y.small[axis]] or [rank - 2, rank - 1]
    if {*axes} & {*x.open, *y.open}:
        return False
    node.input[1:3] = ["", ""]  # the region, which only a crop reads, and scales that old exporters leave empty
    _forget(node, "axes")
    node.attribute.append(helper.make_attribute("axes", axes))
    return targets.aim(node, 3, [y.small[axis] for axis in axes])


def _forget(node: NodeProto, attribute: str) -> None:
    kept = [a for a in node.attribute if a.name != attribute]
    del node.attribute[:]
    node.attribute.extend(kept)


RULES: dict[str, Callable[[Targets, NodeProto], bool]] = {"Expand": _expand, "Reshape": _reshape, "Resize": _resize}
