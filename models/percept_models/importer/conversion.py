"""Convert a model of any opset to `OPSET`, and infer the shapes of all its tensors."""

import onnx
from onnx import ModelProto, NodeProto, helper, inliner, version_converter

from percept_models.graph.builder import OPSET
from percept_models.importer.model_file import iterate_messages, opset_version

SHAPELESS = frozenset({"GroupNormalization"})  # ONNX defines no shape inference for them


def convert_opset(model: ModelProto) -> ModelProto:
    """Return the model in the operators of `OPSET`; newer operators are expressed by older ones where ONNX can.

    Where it cannot and `OPSET` has an operator of the same name, that operator replaces the newer one, and
    `check_equivalence` shows whether it computes the same.
    """
    version = opset_version(model)
    model = _expand_unknown_operators(model)
    if version == OPSET:
        return model
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    try:
        return version_converter.convert_version(model, OPSET)
    except RuntimeError:
        if version < OPSET:
            raise
        model.opset_import[0].version = OPSET
        return model


def infer_shapes(model: ModelProto) -> ModelProto:
    """Return the model with the shape of every tensor; an error of onnx says where the shapes contradict each other."""
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def _expand_unknown_operators(model: ModelProto) -> ModelProto:
    """Replace operators that `OPSET` lacks, or infers no shape for, by the functions with which ONNX defines them.

    These functions depend on the types of the inputs, so the model must state them, weights included.
    """
    used = {node.op_type for node in iterate_messages(model.graph, NodeProto)}
    names = [op for op in sorted(used) if op in SHAPELESS or not onnx.defs.has(op, max_inclusive_version=OPSET)]
    if not names:
        return model
    typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for tensor in typed.graph.initializer:
        typed.graph.value_info.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return inliner.inline_selected_functions(typed, [("", name) for name in names], inline_schema_functions=True)
