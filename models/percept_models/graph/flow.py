"""The data flow from the pixels to the logits: which tensors dominate the logits, and which are feature maps.

In comes a trunk's graph; out come the chains of tensors that no branch bypasses, and for each tensor its layout and the
stage that it belongs to. `stages.py` chooses layers among them.
"""

from collections.abc import Iterable
from math import prod

from onnx import NodeProto

from percept_models.graph.axes import find_axes
from percept_models.graph.dominators import ancestors, dominator_path, immediate_dominators, reverse_edges
from percept_models.graph.factors import RESHAPES
from percept_models.graph.field import Field
from percept_models.graph.layout import Layout, read_layout
from percept_models.graph.reader import Graph
from percept_models.graph.receptive_field import SIZES, image_size, receptive_fields
from percept_models.graph.tokens import TokenUse

WITH_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm"})
RESAMPLING = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool", "Pad", "Resize"})
REARRANGING = RESHAPES | {"Identity", "Transpose"}


class DataFlow:
    """The tensors on the paths from the pixels to the logits, and their dominators."""

    def __init__(self, graph: Graph, logits: str) -> None:
        self._graph, self._logits = graph, logits
        self._axes = find_axes(graph)
        self._tokens = TokenUse(graph, self._axes, logits)
        self._predecessors = self._find_predecessors()
        self.order = ancestors(self._predecessors, logits)
        self._predecessors = {name: self._predecessors[name] for name in self.order[1:]}
        self._idom = immediate_dominators(self.order, self._predecessors)
        self._classes = graph.shapes[logits][1]
        self._depth = self._count_weights()
        self._before_weights = self._find_before_weights()
        self._fields = receptive_fields(graph)

    def layout(self, name: str) -> Layout | None:
        """Return how a map lies in a tensor; None where the tensor holds none."""
        return read_layout(self._graph.shapes.get(name, ()), self._axes.get(name, ()))

    def uses_cells(self, name: str) -> bool:
        """Return whether the logits use the cells of a map, not only the tokens before them."""
        layout = self.layout(name)
        return layout is not None and (not layout.prefix or name in self._tokens.used)

    def stage(self, name: str) -> object:
        """Return the strides and the dilation of a feature map, which are the same for all maps of a stage."""
        field = self._known_field(name)
        return self._strides(name), field.dilation if field else (1, 1)

    def stride(self, name: str) -> float:
        """Return the input pixels from one cell of a feature map to the next, along the axis where they are more."""
        return max(self._strides(name))

    def is_feature_map(self, name: str) -> bool:
        """Return whether a tensor is a map that the logits use, of several cells and channels.

        It depends on weights, and its operator does more than to resample another map.
        """
        layout, node = self.layout(name), self._graph.producer.get(name)
        if layout is None or node is None or layout.cells == 1 or layout.channels == 1:
            return False
        if self._graph.dtype(name).kind != "f":
            return False
        return node.op_type not in RESAMPLING and self.weights_before(name) > 0 and self.uses_cells(name)

    def rearranged_from(self, name: str) -> set[str]:
        """Return the tensors that hold the same map and of which a tensor is only a rearrangement."""
        found = set()
        node = self._graph.producer[name]
        while node.op_type in REARRANGING and self.layout(node.input[0]):
            found.add(node.input[0])
            node = self._graph.producer[node.input[0]]
        return found

    def is_score(self, name: str) -> bool:
        """Return whether a tensor holds class scores: it has one channel per class, and no weights follow it."""
        return self._has_channel_per_class(name) and name not in self._before_weights

    def weights_before(self, name: str) -> int:
        """Return the greatest number of operators with weights on a path from the pixels to a tensor."""
        return self._depth.get(name, 0)

    def classifier_chain(self) -> list[str]:
        """Return the dominators of the logits: the tensors that no branch bypasses."""
        return dominator_path(self._idom, self._logits)

    def segmenter_chain(self) -> list[str]:
        """Return the dominators of the coarsest map and its post-dominators, without the head's class scores."""
        post_idom = immediate_dominators(self.order[::-1], reverse_edges(self._predecessors))
        coarsest = self._coarsest()
        if coarsest is None:
            return []
        following = dominator_path(post_idom, coarsest)[::-1]
        end = max(i for i, name in enumerate(following) if self._size(name) == self._size(coarsest))
        chain = [*dominator_path(self._idom, following[end]), *following[end + 1 :]]
        return [name for name in chain if not self._has_channel_per_class(name) and name in self._before_weights]

    def loses_grid_after(self, name: str) -> bool:
        """Return whether the network goes on with tokens [N,T,C] of an unknown grid after the last known map."""
        chain = self.classifier_chain()
        return any(self._is_sum_of_unknown_tokens(following) for following in chain[chain.index(name) + 1 :])

    def _strides(self, name: str) -> tuple[float, float]:
        """Return the whole strides along (y, x)."""
        field, layout = self._known_field(name), self.layout(name)
        size = (layout.height, layout.width) if layout else (1, 1)
        if field:
            y, x = field.stride
        else:
            y, x = (n / m for n, m in zip(image_size(self._graph), size, strict=True))
        return _nearest(y), _nearest(x)

    def _known_field(self, name: str) -> Field | None:
        """Return the receptive field of a map; None where it is unknown, or taken from axes that are not (y, x)."""
        field, layout = self._fields.get(name), self.layout(name)
        known = field and layout and (field.y.dim, field.x.dim) == layout.axes
        return field if known else None

    def _is_sum_of_unknown_tokens(self, name: str) -> bool:
        """Return whether a tensor is a sum [N,T,C] whose axes hold no known cells: the end of a transformer's block."""
        shape, axes = self._graph.shapes.get(name, ()), self._axes.get(name, ())
        if len(shape) != 3 or any((size or 0) <= 1 for size in shape[1:]):
            return False
        is_sum = self._graph.producer[name].op_type == "Add"
        return is_sum and not any(axis.holds_cells for axis in axes[1:])

    def _find_predecessors(self) -> dict[str, list[str]]:
        """Return the tensors with pixel values and what each is computed from, in topological order."""
        graph = self._graph
        root = next(v.name for v in graph.model.graph.input if v.name not in graph.constants)
        predecessors: dict[str, list[str]] = {root: []}
        for name, node in graph.producer.items():
            sources = [i for i in node.input if i in predecessors]
            used = [i for i in sources if (i, node.output[0]) not in self._tokens.unused_edges]
            if sources and node.op_type not in SIZES:  # sizes carry no pixel values
                predecessors[name] = used or sources
        return predecessors

    def _size(self, name: str) -> tuple[int | None, ...]:
        """Return the height and width of a feature map."""
        layout = self.layout(name)
        return (layout.height, layout.width) if layout else self._graph.shapes.get(name, ())[2:]

    def _cells(self, name: str) -> int:
        """Return the number of cells of a feature map, height times width."""
        return prod(size or 1 for size in self._size(name))

    def _count_weights(self) -> dict[str, int]:
        """Return by tensor the greatest number of operators with weights on a path to it."""
        count: dict[str, int] = {}
        for name in self.order[1:]:
            before = max((count.get(source, 0) for source in self._predecessors[name]), default=0)
            count[name] = before + self._has_weights(name)
        return count

    def _find_before_weights(self) -> set[str]:
        """Return the tensors from which a path leads to an operator with weights."""
        found: set[str] = set()
        for name in reversed(self.order[1:]):
            if name in found or self._has_weights(name):
                found.update(self._predecessors[name])
        return found

    def _has_weights(self, name: str) -> bool:
        if name not in self._predecessors:
            return False
        node = self._graph.producer[name]
        if node.op_type == "Einsum":
            return not self._graph.foldable.isdisjoint(node.input)
        return node.op_type in WITH_WEIGHTS or (node.op_type == "MatMul" and self._mixes_channels(node))

    def _mixes_channels(self, node: NodeProto) -> bool:
        """Return whether a product has a constant matrix that is not one that resamples a map along y or x."""
        for i, summed in ((0, -1), (1, -2)):
            if node.input[1 - i] in self._graph.foldable:
                axes = self._axes.get(node.input[i], ())
                return len(axes) > 1 and not axes[summed].side
        return False

    def _has_channel_per_class(self, name: str) -> bool:
        return self._graph.shapes.get(name, ())[1:2] == (self._classes,)

    def _coarsest(self) -> str | None:
        """Return the last of the smallest maps on the path down the dominator tree that dominates most weights."""
        weights = dict.fromkeys(self.order, 0)
        for name in reversed(self.order[1:]):
            weights[name] += self._has_weights(name)
            weights[self._idom[name]] += weights[name]
        path = [self.order[0]]
        children = reverse_edges({name: [idom] for name, idom in self._idom.items()})
        while maps := [name for name in children.get(path[-1], ()) if self._cells(name) > 1]:
            path.append(max(maps, key=weights.__getitem__))
        known: Iterable[str] = [name for name in path if self.is_feature_map(name)]
        return min(reversed(list(known)), key=self._cells, default=None)


def _nearest(stride: float) -> float:
    """Return the nearest whole stride: maps at the border of an image make it uneven."""
    return round(stride) if stride >= 1 else stride
