"""A graph as other tools wrote it becomes the same graph in fewer nodes.

In comes an onnx-ir model, and it is changed in place: functions are inlined, what is constant is folded and stored,
what is not needed is dropped, and nothing tells any more who made it and where. Parameters stay as they are.
"""

from math import prod

import onnx_ir as ir
from onnx_ir.passes import Sequential
from onnx_ir.passes import common as passes
from onnxscript import optimizer

FILLED = 1024  # the most elements that a ConstantOfShape may become: sizes and paddings, not feature maps


def simplify(model: ir.Model) -> None:
    """Fold what is constant and drop what is not needed, but leave every parameter as it is."""
    passes.InlinePass()(model)
    fold(model)
    Sequential(
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.CommonSubexpressionEliminationPass(),
        passes.ShapeInferencePass(),
        passes.ClearMetadataAndDocStringPass(),
    )(model)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


def fold(model: ir.Model) -> None:
    """Compute what is constant; every tensor keeps its name."""
    optimizer.fold_constants_ir(model, onnx_shape_inference=True, should_fold=_small_fill)


def _small_fill(node: ir.Node) -> bool | None:
    """Whether a node must be folded that would not be by default; the default is None."""
    sizes = node.inputs[0].const_value if node.op_type == "ConstantOfShape" and node.inputs[0] else None
    return True if sizes is not None and prod(sizes.numpy().tolist()) <= FILLED else None
