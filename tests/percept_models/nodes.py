"""One operator as a whole model: the smallest graph through which a gradient can be asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from percept_models.autodiff.reverse import tail
from percept_models.graph.reader import OPSET, Array, Graph, run

Inputs = Sequence[Array | None]
SINCE = {"Gelu": 20}  # operators that are younger than OPSET


def model(
    operator: str,
    inputs: Inputs,
    attributes: Mapping[str, Any],
    double: bool = False,
    outputs: int = 1,
    at: int = 0,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """A model y = operator(..., x, ...): input number `at` is x and has a symbolic batch, the others are stored."""
    kind = TensorProto.DOUBLE if double else TensorProto.FLOAT
    real = np.float64 if double else np.float32
    names = ["x" if i == at else f"c{i}" if c is not None else "" for i, c in enumerate(inputs)]
    stored = [
        numpy_helper.from_array(c.astype(real) if c.dtype.kind == "f" else c, name)
        for name, c in zip(names, inputs, strict=True)
        if c is not None and name != "x"
    ]
    x = inputs[at]
    assert x is not None
    made = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(operator, names, made, **attributes)
    asked = helper.make_node("Identity", ["y0"], ["logits"])
    given = helper.make_tensor_value_info("x", kind, ["N", *x.shape[1:]])
    answer = helper.make_empty_tensor_value_info("logits")
    graph = helper.make_graph([node, asked], "one", [given], [answer], stored)
    imports = [helper.make_opsetid("", max(opset, SINCE.get(operator, 0)))]
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=imports, ir_version=8))


def gradient(made: onnx.ModelProto, x: Array, seed: Array) -> tuple[Array, Array]:
    """Run the whole model as a tail: its output, and d(sum of seed * output)/dx."""
    graph, _ = tail(Graph(made), "x")
    onnx.checker.check_model(graph, full_check=True)
    answer = run(graph, {"activations": x, "seed": seed})
    return answer["logits"], answer["gradients"]
