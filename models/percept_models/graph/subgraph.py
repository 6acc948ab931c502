"""Select nodes of a graph: those that given tensors need, and those on the paths between two tensors."""

from collections.abc import Iterable, Sequence

from onnx import NodeProto

from percept_models.graph.reader import Graph


def nodes_between(graph: Graph, cut: str, logits: str) -> list[NodeProto]:
    """Return the nodes on the paths from `cut` to `logits`, in topological order.

    Raises `ValueError` where there is no such path.
    """
    downstream = graph.downstream(cut)
    if logits not in downstream or logits == cut:
        raise ValueError(f"{logits!r} is not computed from {cut!r}")
    dependent = [node for node in graph.nodes if not downstream.isdisjoint(node.input)]
    return list(required_nodes(dependent, {logits}))


def required_nodes(nodes: Sequence[NodeProto], wanted: set[str]) -> Iterable[NodeProto]:
    """Return the nodes that compute the wanted tensors or what these depend on, in their order."""
    wanted, kept = set(wanted), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(filter(None, node.input))
            kept.append(node)
    return reversed(kept)
