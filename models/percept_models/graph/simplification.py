"""Simplify an ONNX graph that another tool wrote.

In comes an onnx-ir model, which is changed in place: functions are inlined, constant expressions are folded and stored,
unused nodes and metadata are removed. Parameters stay as they are.
"""

from math import prod

import onnx_ir as ir
from onnx_ir.passes import Sequential
from onnx_ir.passes import common as passes
from onnxscript import optimizer

MAX_FOLDED_FILL = 1024  # elements of a ConstantOfShape: enough for sizes and paddings, too few for feature maps


def simplify(model: ir.Model) -> None:
    """Fold constant expressions and remove unused nodes and metadata; leave every parameter as it is."""
    passes.InlinePass()(model)
    fold_constants(model)
    Sequential(
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.CommonSubexpressionEliminationPass(),
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


def _clear_metadata(model: ir.Model) -> None:
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
