"""The interpolation matrix of a Resize node along one axis."""

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from percept_models.graph.builder import OPSET, Builder
from percept_models.graph.execution import run
from percept_models.graph.reader import Array, Graph, attributes


def interpolation_matrix(node: NodeProto, graph: Graph, axis: int) -> Array | None:
    """Return the matrix [outputs, inputs] that a Resize applies along an axis; None where it leaves the axis as it is.

    Every interpolation is linear, so that ONNX Runtime gives the matrix by resizing the identity matrix. Raises
    `ValueError` for a crop or an unknown size.
    """
    n, m = graph.shapes[node.input[0]][axis], graph.shapes[node.output[0]][axis]
    if n is None or m is None or attributes(node).get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise ValueError("it crops, or a size is not known")
    if n == m:
        return None
    outputs = run(_resize_model(node, graph, axis, n, m), {"x": np.eye(n, dtype=np.float32)[None, None]})
    (matrix,) = outputs.values()
    return np.asarray(matrix[0, 0].T)


def _resize_model(node: NodeProto, graph: Graph, axis: int, n: int, m: int) -> onnx.ModelProto:
    """Build a model x [1,1,n,n] → [1,1,n,m] that resizes the last axis as the node resizes `axis`."""
    given = attributes(node)
    scales = graph.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    axes = [a % 4 for a in given.pop("axes", range(4))]
    given.pop("keep_aspect_ratio_policy", None)
    builder = Builder()
    if scales is None:
        target = ("", "", builder.constant(np.array([1, 1, n, m], np.int64)))
    else:
        scale = np.array([1, 1, 1, scales[axes.index(axis)]], np.float32)
        target = ("", builder.constant(scale), "")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, n, n])]
    output = builder.write("Resize", ("x", *target), 1, **given)[0]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, 1, n, m])]
    weights = list(builder.constants.values())
    built = helper.make_graph(builder.nodes, "resize", inputs, outputs, weights)
    imports = graph.model.opset_import or [helper.make_opsetid("", OPSET)]
    return helper.make_model(built, opset_imports=imports, ir_version=8)
