"""Convert a model of any opset to `OPSET`, and infer the shapes of all its tensors."""

import onnx
from onnx import ModelProto, NodeProto, helper, inliner, version_converter

from percept_models.graph.builder import OPSET
from percept_models.graph.reader import Graph
from percept_models.importer.model_file import iterate_messages, opset_version

ASYMMETRIC_OPSET = 10  # the last one whose Upsample and Resize have no coordinate_transformation_mode
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
        converted = version_converter.convert_version(model, OPSET)
    except RuntimeError:
        if version < OPSET:
            raise
        model.opset_import[0].version = OPSET
        return model
    return _with_old_coordinates(converted) if version <= ASYMMETRIC_OPSET else converted


def _with_old_coordinates(model: ModelProto) -> ModelProto:
    """Give every Resize, in place, the coordinates that opset 10 and older ones have: cell i is at i / scale.

    The version converter leaves half_pixel, the default of newer opsets. The nearest cell was the one before this
    point, or the one after it where a map becomes smaller (ONNX Runtime; the specification does not say).
    """
    graph = Graph(model)
    for node in iterate_messages(model.graph, NodeProto):
        if node.op_type == "Resize":
            scales = graph.value(node.input[2])
            smaller = scales is not None and scales.max() <= 1 and scales.min() < 1
            old = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil" if smaller else "floor"}
            kept = [attribute for attribute in node.attribute if attribute.name not in old]
            del node.attribute[:]
            node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in old.items())])
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
