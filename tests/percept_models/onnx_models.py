"""Small ONNX models for tests: one operator as a whole model, and a model with more outputs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from percept_models.autodiff.tail import build_tail
from percept_models.graph.builder import OPSET
from percept_models.graph.execution import run
from percept_models.graph.reader import Array, Graph

Inputs = Sequence[Array | None]
SINCE = {"Gelu": 20}  # the opset of operators that are newer than `OPSET`


def operator_model(
    operator: str,
    inputs: Inputs,
    attributes: Mapping[str, Any],
    double: bool = False,
    outputs: int = 1,
    at: int = 0,
    opset: int = OPSET,
    scales_input: bool = False,
) -> onnx.ModelProto:
    """A model logits = operator(..., x, ...): input number `at` is x with a symbolic batch, the others are stored.

    With `scales_input` logits = x * sum(operator(..., x, ...)).
    """
    dtype = TensorProto.DOUBLE if double else TensorProto.FLOAT
    real = np.float64 if double else np.float32
    names = ["x" if i == at else f"c{i}" if c is not None else "" for i, c in enumerate(inputs)]
    stored = [
        numpy_helper.from_array(c.astype(real) if c.dtype.kind == "f" else c, name)
        for name, c in zip(names, inputs, strict=True)
        if c is not None and name != "x"
    ]
    x = inputs[at]
    assert x is not None
    nodes = [helper.make_node(operator, names, [f"y{i}" for i in range(outputs)], **attributes)]
    if scales_input:
        nodes.append(helper.make_node("Cast", ["y0"], ["real"], to=dtype))
        nodes.append(helper.make_node("ReduceSum", ["real"], ["sum"], keepdims=0))
        nodes.append(helper.make_node("Mul", ["x", "sum"], ["logits"]))
    else:
        nodes.append(helper.make_node("Identity", ["y0"], ["logits"]))
    image = helper.make_tensor_value_info("x", dtype, ["N", *x.shape[1:]])
    logits = helper.make_empty_tensor_value_info("logits")
    graph = helper.make_graph(nodes, "one", [image], [logits], stored)
    imports = [helper.make_opsetid("", max(opset, SINCE.get(operator, 0)))]
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=imports, ir_version=8))


def run_tail(model: onnx.ModelProto, x: Array, seed: Array) -> tuple[Array, Array]:
    """Build the tail of a whole model and run it; return its output and d(sum of seed * output)/dx."""
    tail, _ = build_tail(Graph(model), "x")
    onnx.checker.check_model(tail, full_check=True)
    found = run(tail, {"activations": x, "seed": seed})
    return found["logits"], found["gradients"]


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The model with more tensors as outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    return copy
