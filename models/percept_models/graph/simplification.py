"""Simplify an ONNX graph that another tool wrote.

In comes an onnx-ir model, which is changed in place: functions are inlined, constant expressions are folded and stored,
slices over whole axes, outputs that repeat another one, unused nodes and metadata are removed. Parameters stay as they
are.
"""

from math import prod

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import Sequential
from onnx_ir.passes import common as passes
from onnxscript import optimizer

from percept_models.graph.pooling import skip_last_windows

MAX_SIZE = 2**31 - 1  # the greatest index in int32: exporters slice up to it, or beyond, where they mean the end
MAX_FOLDED_FILL = 1024  # elements of a ConstantOfShape: enough for sizes and paddings, too few for feature maps


def simplify(model: ir.Model) -> None:
    """Fold constant expressions and remove nodes without effect and metadata; leave every parameter as it is."""
    passes.InlinePass()(model)
    skip_last_windows(model)
    fold_constants(model)
    _remove_full_slices(model)
    _remove_equal_outputs(model)
    Sequential(
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.CommonSubexpressionEliminationPass(),
    )(model)
    _remove_equal_outputs(model)
    Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.ShapeInferencePass(),
        passes.ClearMetadataAndDocStringPass(),
    )(model)
    _clear_metadata(model)


def fold_constants(model: ir.Model) -> None:
    """Replace constant expressions by their values; every tensor keeps its name."""
    optimizer.fold_constants_ir(model, onnx_shape_inference=True, should_fold=_fold_small_fill)


def _fold_small_fill(node: ir.Node) -> bool | None:
    """Return True for a small ConstantOfShape, and None, the optimizer's own choice, for every other node."""
    sizes = node.inputs[0].const_value if node.op_type == "ConstantOfShape" and node.inputs[0] else None
    return True if sizes is not None and prod(sizes.numpy().tolist()) <= MAX_FOLDED_FILL else None


def _remove_full_slices(model: ir.Model) -> None:
    """Drop the axes that a Slice takes whole; without any other axis it becomes an Identity.

    `torch.export` writes `x[:, a:b]` as two slices, the first from 0 to the greatest int64 along the batch.
    """
    for node in model.graph.all_nodes():
        slices = _read_slices(node) if node.op_type == "Slice" else []
        kept = [one for one in slices if not _is_full(node, *one)]
        if len(kept) < len(slices):
            node.op_type = "Slice" if kept else "Identity"
            node.resize_inputs(1)
            for values in zip(*kept, strict=True):
                constant = ir.node("Constant", [], {"value": ir.tensor(np.array(values, np.int64))})
                node.prepend(constant)
                node.resize_inputs(len(node.inputs) + 1)
                node.replace_input_with(len(node.inputs) - 1, constant.outputs[0])


def _read_slices(node: ir.Node) -> list[tuple[int, int, int, int]]:
    """Return (start, end, axis, step) for every axis of a Slice; an empty list where one of them is computed."""
    given = [value for value in node.inputs[1:] if value is not None]
    if any(value.const_value is None for value in given):
        return []
    starts, ends, axes, steps = (_integers(node, i) for i in range(1, 5))
    return list(zip(starts, ends, axes or range(len(starts)), steps or [1] * len(starts), strict=True))


def _integers(node: ir.Node, i: int) -> list[int]:
    """Return the stored integers of input i of a node; an empty list where the input is left out."""
    value = node.inputs[i] if i < len(node.inputs) else None
    stored = value.const_value if value is not None else None
    return [int(n) for n in stored.numpy().ravel()] if stored is not None else []


def _is_full(node: ir.Node, start: int, end: int, axis: int, step: int) -> bool:
    """Return whether a slice takes a whole axis in its order."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    size = shape[axis] if shape is not None else None
    length = size if isinstance(size, int) else MAX_SIZE
    return step == 1 and end >= length and (start == 0 or start <= -length)


def _remove_equal_outputs(model: ir.Model) -> None:
    """Remove every output that is the same tensor as an earlier one, but for Identity nodes: it has only one name."""
    seen = set[ir.Value]()
    for output in list(model.graph.outputs):
        source = _source(output)
        if source in seen:
            model.graph.outputs.remove(output)
        seen.add(source)


def _source(value: ir.Value) -> ir.Value:
    """Return the tensor that Identity nodes copied to a value."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.op_type == "Identity" else None
    return value if source is None else _source(source)


def _clear_metadata(model: ir.Model) -> None:
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
