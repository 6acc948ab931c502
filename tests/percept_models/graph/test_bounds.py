"""Bounds follow from the operators at the end of a graph, and hold for what ONNX Runtime computes."""

from math import inf
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from percept_models.graph.bounds import bounds
from percept_models.graph.execution import run
from percept_models.graph.reader import Graph

CONSTANTS = {"one": 1.0, "two": 2.0, "low": -0.5, "high": 0.75}
X = 20 * np.random.default_rng(0).standard_normal((2, 4, 3, 5)).astype(np.float32)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    """A node; its inputs are separated by spaces, and `-` is one that is left out."""
    return helper.make_node(operator, ["" if x == "-" else x for x in inputs.split()], [output], **attributes)


CASES = {
    "unbounded": ([node("Mul", "x two", "y")], (-inf, inf)),
    "sigmoid": ([node("Sigmoid", "x", "y")], (0, 1)),
    "one minus sigmoid": ([node("Sigmoid", "x", "s"), node("Sub", "one s", "y")], (0, 1)),
    "hyperbolic tangent as a sigmoid": (
        [node("Tanh", "x", "t"), node("Add", "t one", "a"), node("Div", "a two", "y")],
        (0, 1),
    ),
    "mean of two": ([node("Sigmoid", "x", "s"), node("Softmax", "x", "t", axis=1), node("Mean", "s t", "y")], (0, 1)),
    "product": ([node("Sigmoid", "x", "s"), node("Tanh", "x", "t"), node("Mul", "s t", "y")], (-1, 1)),
    "gate": ([node("Sigmoid", "x", "s"), node("Mul", "x s", "y")], (-inf, inf)),
    "clip": ([node("Clip", "x low high", "y")], (-0.5, 0.75)),
    "clip from below": ([node("Clip", "x low", "y")], (-0.5, inf)),
    "greatest and least": ([node("Max", "x low", "m"), node("Min", "m high", "y")], (-0.5, 0.75)),
    "ReLU": ([node("Relu", "x", "y")], (0, inf)),
    "logarithm": ([node("Sigmoid", "x", "s"), node("Log", "s", "y")], (-inf, 0)),
    "exponential": ([node("LogSoftmax", "x", "s", axis=1), node("Exp", "s", "y")], (0, 1)),
    "negative": ([node("Sigmoid", "x", "s"), node("Neg", "s", "y")], (-1, 0)),
    "padded": ([node("HardSigmoid", "x", "s"), node("Pad", "s pads two", "y")], (0, 2)),
    "pooled": ([node("Sigmoid", "x", "s"), node("GlobalAveragePool", "s", "y")], (0, 1)),
    "resized": ([node("Sigmoid", "x", "s"), node("Resize", "s - scales", "y", mode="linear")], (0, 1)),
    "resized by cubics": ([node("Sigmoid", "x", "s"), node("Resize", "s - scales", "y", mode="cubic")], (-inf, inf)),
    "written-out sigmoid": (
        [node("Neg", "x", "n"), node("Exp", "n", "e"), node("Add", "e one", "a"), node("Reciprocal", "a", "y")],
        (0, 1),
    ),
    "reciprocal of what may be zero": ([node("Tanh", "x", "t"), node("Reciprocal", "t", "y")], (-inf, inf)),
    "square root": ([node("Sigmoid", "x", "s"), node("Sqrt", "s", "y")], (0, 1)),
    "square": ([node("Tanh", "x", "t"), node("Pow", "t two", "y")], (0, 1)),
    "power of what is not negative": ([node("HardSigmoid", "x", "s"), node("Pow", "s high", "y")], (0, 1)),
    "power of what may be negative": ([node("Tanh", "x", "t"), node("Pow", "t one", "y")], (-inf, inf)),
    "negative power": ([node("Sigmoid", "x", "s"), node("Pow", "s low", "y")], (-inf, inf)),
    "magnitude": ([node("Clip", "x low high", "c"), node("Abs", "c", "y")], (0, 0.75)),
    "sine and cosine": ([node("Sin", "x", "s"), node("Cos", "x", "c"), node("Max", "s c", "y")], (-1, 1)),
    "error function": ([node("Erf", "x", "y")], (-1, 1)),
    "arc tangent": ([node("Atan", "x", "y")], (-np.pi / 2, np.pi / 2)),
    "choice": (
        [node("Sigmoid", "x", "s"), node("Greater", "s high", "b"), node("Where", "b s low", "y")],
        (-0.5, 1),
    ),
    "divided by what may be zero": ([node("Sigmoid", "x", "s"), node("Div", "one s", "y")], (-inf, inf)),
}


@pytest.mark.parametrize("case", CASES)
def test_bounds_hold(case: str) -> None:
    nodes, expected = CASES[case]
    constants = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in CONSTANTS.items()]
    constants.append(numpy_helper.from_array(np.array([0, 1, 0, 0, 0, 0, 0, 0]), "pads"))
    constants.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 3, 5])
    graph = helper.make_graph(nodes, "test", [x], [helper.make_empty_tensor_value_info("y")], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    low, high = bounds(Graph(model), "y")
    assert (low, high) == pytest.approx(expected)
    y = run(model, {"x": X})["y"]
    assert low <= y.min() <= y.max() <= high
