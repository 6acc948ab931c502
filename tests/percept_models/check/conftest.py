"""A file that names the colour of a photo, for pixels in 0..1 only, as a network that clips its activations does."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

SIDE = 32


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`colours.onnx`: the classes `red`, `green` and `blue` from 30 times the mean of each channel, clipped to 0..1."""
    folder = tmp_path_factory.mktemp("colours")
    means = np.eye(3)[:, :, None, None] * np.full((4, 4), 1 / 16)
    weights = {"means": means, "low": 0.0, "high": 1.0, "W": 30 * np.eye(3), "b": [0.0, 1.0, 2.0]}
    nodes = [
        helper.make_node("Conv", ["x", "means"], ["cells"], strides=[4, 4]),
        helper.make_node("Clip", ["cells", "low", "high"], ["clipped"]),
        helper.make_node("GlobalAveragePool", ["clipped"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "W", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, folder / "colours.onnx")
    (folder / "labels.txt").write_text("red\ngreen\nblue\n")
    return folder / "colours.onnx"
