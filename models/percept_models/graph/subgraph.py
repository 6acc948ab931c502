"""Select nodes of a graph: those that given tensors need, and those on the paths between two tensors."""

from collections.abc import Iterable, Sequence

from onnx import ModelProto, NodeProto

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


def remove_unused(model: ModelProto, kept_prefix: str | None = None) -> ModelProto:
    """Remove the nodes and weights that no output needs, in place, and return the model.

    Weights whose name begins with `kept_prefix` stay.
    """
    nodes = list(required_nodes(list(model.graph.node), {output.name for output in model.graph.output}))
    used = {name for node in nodes for name in node.input}
    stored = [t for t in model.graph.initializer if t.name in used or (kept_prefix and t.name.startswith(kept_prefix))]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(stored)
    return model
