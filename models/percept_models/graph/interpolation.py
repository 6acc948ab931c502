"""The matrix by which a Resize acts along one axis of a feature map."""

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from percept_models.graph.errors import UnsupportedOperator
from percept_models.graph.reader import OPSET, Array, Builder, Graph, attributes
from percept_models.graph.reader import run as evaluate


def interpolation(node: NodeProto, graph: Graph, axis: int) -> Array | None:
    """The matrix [outputs, inputs] by which a Resize acts along an axis: its answer to the identity.

    None where it leaves the axis as it is. Raises `UnsupportedOperator` for a crop or an unknown size.
    """
    n, m = graph.shapes[node.input[0]][axis], graph.shapes[node.output[0]][axis]
    has = attributes(node)
    if n is None or m is None or has.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise UnsupportedOperator(node.op_type, "it crops, or a size is not known")
    if n == m:
        return None
    scales = graph.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    axes = [a % 4 for a in has.pop("axes", range(4))]
    has.pop("keep_aspect_ratio_policy", None)
    builder = Builder()
    if scales is None:
        target = ("", "", builder.constant(np.array([1, 1, n, m], np.int64)))
    else:
        scale = np.array([1, 1, 1, scales[axes.index(axis)]], np.float32)
        target = ("", builder.constant(scale), "")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, n, n])]
    output = builder.write("Resize", ("x", *target), 1, **has)[0]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, 1, n, m])]
    weights = list(builder.constants.values())
    made = helper.make_graph(builder.nodes, "resize", inputs, outputs, weights)
    imports = graph.model.opset_import or [helper.make_opsetid("", OPSET)]
    model: onnx.ModelProto = helper.make_model(made, opset_imports=imports, ir_version=8)
    answer = evaluate(model, {"x": np.eye(n, dtype=np.float32)[None, None]})[output]
    return np.asarray(answer[0, 0].T)
