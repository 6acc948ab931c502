"""Which tokens the logits use: behind a class token, the cells of the last maps have no influence.

A transformer that classifies by its class token reads that token alone from its last block. The cells of the map in
that block's output then have no gradient, and a map of them would be empty; those that enter its attention have one.
"""

from collections.abc import Iterator

from onnx import NodeProto

from percept_models.graph.axes import Axes
from percept_models.graph.axis_rules import axis_sources, selected_range
from percept_models.graph.factors import RESHAPES, kept_position
from percept_models.graph.reader import Graph

Edge = tuple[str, str]  # a tensor and the first output of a node that consumes it


class TokenUse:
    """The tensors in whose cells the logits have a gradient, where other tokens precede the cells.

    `used` holds these tensors. `unused_edges` are their uses in which only the tokens before the cells count.
    """

    def __init__(self, graph: Graph, axes: dict[str, Axes], logits: str) -> None:
        self._graph, self._axes = graph, axes
        self._used: set[tuple[str, int]] = set()
        self._reached = {logits}
        unused: set[Edge] = set()
        for node in reversed(graph.nodes):
            if self._reached.isdisjoint(node.output):
                continue
            self._reached.update(filter(None, node.input))
            for i, name in enumerate(node.input):
                uses = {axis: self._uses_cells(node, i, axis) for axis in self._prefixed(name)}
                self._used |= {(name, axis) for axis, use in uses.items() if use}
                if uses and not any(uses.values()):
                    unused.add((name, node.output[0]))
        self.used = {name for name, _ in self._used}
        self.unused_edges = {edge for edge in unused if edge[0] in self.used}

    def _prefixed(self, name: str) -> Iterator[int]:
        """Yield the axes whose cells come after other tokens."""
        for position, axis in enumerate(self._axes.get(name, ())):
            if axis.prefix:
                yield position

    def _uses_cells(self, node: NodeProto, i: int, axis: int) -> bool:
        """Return whether a node passes the cells along an axis of its input i on to the logits."""
        prefix = self._axes[node.input[i]][axis].prefix
        for output, name in enumerate(node.output):
            if name not in self._reached:
                continue
            part = selected_range(self._graph, node, output, axis) if i == 0 else None
            if part is not None and max(part, default=0) < prefix:
                continue
            kept = _kept_axis(self._graph, node, output, i, axis)
            if kept is None or kept not in self._prefixed(name) or (name, kept) in self._used:
                return True
        return False


def _kept_axis(graph: Graph, node: NodeProto, output: int, i: int, axis: int) -> int | None:
    """Return the axis of an output that is the given axis of input i; None where it was summed or mixed."""
    if node.op_type in RESHAPES:
        before, after = graph.shapes.get(node.input[0]), graph.shapes.get(node.output[0])
        if i or before is None or after is None:
            return None
        return kept_position(before, after, axis)
    sources = axis_sources(graph, node, output) or ()
    return next((kept for kept, axes in enumerate(sources) if (i, axis) in axes), None)
