"""The bounds of a tensor's values, from the operators that compute it alone: interval arithmetic from the end back.

A tensor that no rule bounds has the bounds (-inf, inf). The bounds of a sigmoid are [0, 1], and those of one minus a
sigmoid, or of the mean of two, follow from them. Nothing is run.
"""

from collections.abc import Callable, Mapping
from math import inf, pi, prod
from typing import Any, NamedTuple

import numpy as np
from onnx import NodeProto

from percept_models.graph.reader import Graph, attributes

Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-inf, inf)
MAX_DEPTH = 64  # operators that are followed back from the tensor: activations are near the end of a network


class Operation(NamedTuple):
    """A node, and the bounds of its inputs."""

    inputs: list[Bounds]
    node: NodeProto
    graph: Graph


Rule = Callable[[Operation], Bounds]


def bounds(graph: Graph, name: str) -> Bounds:
    """The bounds of a tensor that hold whatever the input is."""
    return _bounds(graph, name, {}, 0)


def _bounds(graph: Graph, name: str, known: dict[str, Bounds], depth: int) -> Bounds:
    """The bounds of a tensor; `known` holds those that were computed before, and gets these."""
    if name in known:
        return known[name]
    node = graph.producer.get(name)
    if node is None or node.op_type not in RULES or depth > MAX_DEPTH:
        known[name] = _stored(graph, name)
    else:
        operands = node.input[: 1 if node.op_type in FIRST_INPUT_ONLY else None]
        inputs = [_bounds(graph, x, known, depth + 1) for x in operands if x]
        low, high = RULES[node.op_type](Operation(inputs, node, graph))
        known[name] = (low, high) if low <= high else UNBOUNDED  # a NaN is no bound
    return known[name]


def _stored(graph: Graph, name: str) -> Bounds:
    """The bounds of a tensor whose values the graph stores."""
    value = graph.value(name)
    return (float(value.min()), float(value.max())) if value is not None and value.size else UNBOUNDED


def _union(c: Operation) -> Bounds:
    """The rule of operators whose values are among those of their inputs, or averages of them."""
    return min(low for low, _ in c.inputs), max(high for _, high in c.inputs)


def _resize(c: Operation) -> Bounds:
    return UNBOUNDED if attributes(c.node).get("mode") == "cubic" else c.inputs[0]  # it overshoots


def _pad(c: Operation) -> Bounds:
    fill = _stored(c.graph, c.node.input[2]) if len(c.node.input) > 2 and c.node.input[2] else (0.0, 0.0)
    constant = attributes(c.node).get("mode", "constant") == "constant"
    return _union(c._replace(inputs=[c.inputs[0], fill])) if constant else c.inputs[0]


def _clip(c: Operation) -> Bounds:
    low, high = c.inputs[0]
    given = attributes(c.node)  # before opset 11
    limits = [_stored(c.graph, x) if x else UNBOUNDED for x in [*c.node.input[1:3], "", ""][:2]]
    least, most = given.get("min", limits[0][0]), given.get("max", limits[1][1])
    return min(max(low, least), most), max(min(high, most), least)


def _relu(c: Operation) -> Bounds:
    return max(c.inputs[0][0], 0.0), max(c.inputs[0][1], 0.0)


def _add(c: Operation) -> Bounds:
    return sum(low for low, _ in c.inputs), sum(high for _, high in c.inputs)


def _subtract(c: Operation) -> Bounds:
    (a, b), (p, q) = c.inputs
    return a - q, b - p


def _multiply(c: Operation) -> Bounds:
    (a, b), (p, q) = c.inputs
    products = [0.0 if 0 in pair else prod(pair) for pair in ((a, p), (a, q), (b, p), (b, q))]
    return min(products), max(products)


def _divide(c: Operation) -> Bounds:
    p, q = c.inputs[1]
    return _multiply(c._replace(inputs=[c.inputs[0], (1 / q, 1 / p)])) if p > 0 or q < 0 else UNBOUNDED


def _reciprocal(c: Operation) -> Bounds:
    return _divide(c._replace(inputs=[(1.0, 1.0), c.inputs[0]]))


def _absolute(c: Operation) -> Bounds:
    low, high = c.inputs[0]
    return max(low, -high, 0.0), max(-low, high)


def _power(c: Operation) -> Bounds:
    """The rule of `x ^ p` with a stored p > 0: increasing where x is not negative, as an even power of |x| is."""
    (low, high), (p, same) = c.inputs
    if p != same or p <= 0 or (low < 0 and p % 2):
        return UNBOUNDED
    low, high = (low, high) if low >= 0 else _absolute(c)
    return _increasing(lambda x: x**p)(c._replace(inputs=[(low, high)]))


def _where(c: Operation) -> Bounds:
    return _union(c._replace(inputs=c.inputs[1:]))


def _mean(c: Operation) -> Bounds:
    low, high = _add(c)
    return low / len(c.inputs), high / len(c.inputs)


def _increasing(function: Callable[[Any], Any]) -> Rule:
    """The rule of an elementwise increasing function."""

    def rule(c: Operation) -> Bounds:
        with np.errstate(all="ignore"):
            low, high = (float(function(np.float64(value))) for value in c.inputs[0])
        return low, high

    return rule


def _always(low: float, high: float) -> Rule:
    """The rule of an operator whose values are bounded whatever its inputs are."""
    return lambda _: (low, high)


# fmt: off
SELECTING_OR_AVERAGING = (
    "AveragePool", "Cast", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalAveragePool",
    "GlobalMaxPool", "Identity", "MaxPool", "ReduceMax", "ReduceMean", "ReduceMin", "Reshape", "Slice", "SpaceToDepth",
    "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)
# fmt: on
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(SELECTING_OR_AVERAGING, _union),
    **dict.fromkeys(("HardSigmoid", "Sigmoid", "Softmax"), _always(0, 1)),
    **dict.fromkeys(("Cos", "Erf", "Sin", "Softsign", "Tanh"), _always(-1, 1)),
    "Abs": _absolute,
    "Add": _add,
    "Atan": _always(-pi / 2, pi / 2),
    "Clip": _clip,
    "Div": _divide,
    "Exp": _increasing(np.exp),
    "Log": _increasing(np.log),
    "LogSoftmax": _always(-inf, 0),
    "Max": lambda c: (max(low for low, _ in c.inputs), max(high for _, high in c.inputs)),
    "Mean": _mean,
    "Min": lambda c: (min(low for low, _ in c.inputs), min(high for _, high in c.inputs)),
    "Mul": _multiply,
    "Neg": lambda c: (-c.inputs[0][1], -c.inputs[0][0]),
    "Pad": _pad,
    "Pow": _power,
    "Reciprocal": _reciprocal,
    "Relu": _relu,
    "Resize": _resize,
    "Sqrt": _increasing(np.sqrt),
    "Sub": _subtract,
    "Sum": _add,
    "Where": _where,
}
# The operators whose other inputs are shapes, axes, indices or limits, not values.
# fmt: off
FIRST_INPUT_ONLY = frozenset({
    "Clip", "Expand", "Gather", "Pad", "ReduceMax", "ReduceMean", "ReduceMin", "Reshape", "Resize", "Slice", "Split",
    "Squeeze", "Tile", "Unsqueeze",
})
# fmt: on
