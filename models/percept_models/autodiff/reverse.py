"""The backward pass of reverse mode: the rules applied to a graph, node by node, from the outputs to the inputs.

In come a builder that holds the forward nodes and the cotangents to start from; what leaves are the nodes of the
derivative, added to the builder, and the name of the cotangent of every tensor. What each operator contributes is in
`rules.py`.
"""

from collections.abc import Iterable

from onnx import NodeProto

from percept_models.autodiff.arithmetic import zero
from percept_models.autodiff.context import Context
from percept_models.autodiff.errors import UnsupportedOperator
from percept_models.autodiff.rules import RULES
from percept_models.graph.builder import Builder
from percept_models.graph.reader import Graph


def varying_tensors(graph: Graph, cut: str, path: Iterable[NodeProto]) -> set[str]:
    """Return the tensors on the path that vary with the values at the cut: not sizes, indices and comparisons."""
    found = {cut}
    for node in path:
        if RULES.get(node.op_type) is not zero and not found.isdisjoint(node.input):
            found.update(name for name in node.output if graph.dtype(name).kind not in "biu")
    return found


def backpropagate(builder: Builder, graph: Graph, wrt: set[str], cotangents: dict[str, str]) -> dict[str, str]:
    """Go through the builder's nodes in reverse order and accumulate the cotangents of the tensors in `wrt`.

    `cotangents` maps the tensors where the pass starts to the names of their cotangents; it is extended and returned.
    Raises `UnsupportedOperator` where a node has no rule.
    """
    for node in reversed(builder.nodes.copy()):
        given = [cotangents.get(name) for name in node.output]
        if not any(given):
            continue
        if node.op_type not in RULES:
            raise UnsupportedOperator(node.op_type)
        needs_grad = frozenset(i for i, name in enumerate(node.input) if name in wrt)
        found = RULES[node.op_type](Context(node, graph, builder, needs_grad), *given)
        for name, cotangent in zip(node.input, found, strict=False):
            if cotangent is not None and name in wrt:
                known = cotangents.get(name)
                cotangents[name] = builder.op.Add(known, cotangent) if known else cotangent
    return cotangents
