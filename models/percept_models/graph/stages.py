"""The layers to tap: the last feature map of every stage; that of the last stage is the layer for CAM.

In comes a trunk's graph with the tensors that may be tapped; out come those that end a stage. A stage is a run of
feature maps of one stride and dilation, and a map can end it only if it dominates the logits: everything that the
logits receive from that stage passes through it. Names of tensors have no influence, only the depths of their modules.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from math import prod

from percept.bundle.manifest import TaskName
from percept_models.graph.dominators import ancestors, dominator_path, immediate_dominators, reverse_edges
from percept_models.graph.reader import Graph
from percept_models.graph.receptive_field import receptive_fields

WITH_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm"})
MERGES = frozenset({"Add", "Concat", "Sum"})
ACTIVATIONS = frozenset({"BatchNormalization", "Clip", "HardSwish", "LeakyRelu", "PRelu", "Relu"})
RESAMPLING = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool", "Pad", "Resize"})


def suggest_layers(graph: Graph, task: TaskName, nesting: Mapping[str, int], logits: str = "logits") -> list[str]:
    """Return the keys of `nesting` that end a stage, in topological order; the last is the layer for CAM.

    `nesting` maps each tensor that may be tapped to the nesting depth of its module. Among the tensors of one stage
    the outermost modules win, then merges of branches, then the last tensor. For classification the last stage is the
    one before the pooling; for segmentation it is the one before the head, and the levels of a feature pyramid are
    suggested too. The list is empty where no spatial tensor can be tapped.
    """
    flow = DataFlow(graph, logits)
    chain = flow.classifier_chain() if task == "classification" else flow.segmenter_chain()
    candidates = [name for name in chain if name in nesting and flow.is_feature_map(name)]
    stages = [list(stage) for _, stage in groupby(candidates, key=flow.stage)]
    ends = [_stage_end(graph, stage, nesting, last=stage is stages[-1]) for stage in stages]
    levels = {name for name in pyramid_levels(graph) if name in nesting} if task == "segmentation" else set()
    return [name for name in graph.producer if name in levels.union(ends[:-1]) - {*ends[-1:]}] + ends[-1:]


def pyramid_levels(graph: Graph) -> list[str]:
    """Return the levels of a feature pyramid, the coarsest first.

    Every level but the first is the sum of the resized level before it and a lateral branch (Lin et al. 2017,
    arXiv:1612.03144). Empty where fewer than two sums are chained.
    """
    coarser = {
        name: graph.producer[source].input[0]
        for name, node in graph.producer.items()
        for source in node.input
        if node.op_type == "Add" and source in graph.producer and graph.producer[source].op_type == "Resize"
    }
    chained = {name for pair in coarser.items() if pair[1] in coarser for name in pair}
    return [name for name in graph.producer if name in chained | {coarser[name] for name in chained & coarser.keys()}]


def _stage_end(graph: Graph, stage: Sequence[str], nesting: Mapping[str, int], last: bool) -> str:
    depth = min(nesting[name] for name in stage)
    outermost = [name for name in stage if nesting[name] == depth]
    merges = [] if last else [name for name in outermost if _is_merge(graph, name)]
    return (merges or outermost)[-1]


def _is_merge(graph: Graph, name: str) -> bool:
    """Return whether a tensor is the sum or concatenation of branches, or the activation of one."""
    node = graph.producer[name]
    while node.op_type in ACTIVATIONS:
        node = graph.producer[node.input[0]]
    return node.op_type in MERGES and sum(i not in graph.foldable for i in node.input) > 1


class DataFlow:
    """The tensors on the paths from the pixels to the logits, and their dominators."""

    def __init__(self, graph: Graph, logits: str) -> None:
        self._graph, self._logits = graph, logits
        root = next(v.name for v in graph.model.graph.input if v.name not in graph.constants)
        predecessors: dict[str, list[str]] = {root: []}
        for name, node in graph.producer.items():
            sources = [i for i in node.input if i in predecessors]
            if sources and graph.dtype(name).kind in "fu":  # sizes and indices carry no pixel values
                predecessors[name] = sources
        self._order = ancestors(predecessors, logits)
        self._predecessors = {name: predecessors[name] for name in self._order[1:]}
        self._idom = immediate_dominators(self._order, self._predecessors)
        self._classes = graph.shapes[logits][1]
        self._learned = self._behind_weights()
        self._fields = receptive_fields(graph)

    def stage(self, name: str) -> object:
        """Return what all feature maps of a stage share: stride and dilation, or the size if the field is unknown."""
        field = self._fields.get(name)
        return (field.stride, field.dilation) if field else self._size(name)

    def is_feature_map(self, name: str) -> bool:
        """Return whether a tensor is a map [N,C,h,w] of several cells that depends on weights and was not resampled."""
        graph = self._graph
        shape, node = graph.shapes.get(name, ()), graph.producer.get(name)
        if len(shape) != 4 or node is None or None in shape[1:] or self._cells(name) == 1:
            return False
        resized = node.op_type == "MatMul" and self._size(node.input[1]) != shape[2:]
        return node.op_type not in RESAMPLING and not resized and name in self._learned

    def classifier_chain(self) -> list[str]:
        """Return the dominators of the logits: the tensors that no branch bypasses."""
        return dominator_path(self._idom, self._logits)

    def segmenter_chain(self) -> list[str]:
        """Return the dominators of the coarsest map and its post-dominators, without the head's class scores."""
        post_idom = immediate_dominators(self._order[::-1], reverse_edges(self._predecessors))
        coarsest = self._coarsest()
        if coarsest is None:
            return []
        following = dominator_path(post_idom, coarsest)[::-1]
        end = max(i for i, name in enumerate(following) if self._size(name) == self._size(coarsest))
        chain = [*dominator_path(self._idom, following[end]), *following[end + 1 :]]
        return [name for name in chain if not self._is_score(name)]

    def _size(self, name: str) -> tuple[int | None, ...]:
        """Return the height and width of a feature map."""
        return self._graph.shapes.get(name, ())[2:]

    def _cells(self, name: str) -> int:
        """Return the number of cells of a feature map, height times width."""
        return prod(size or 1 for size in self._size(name))

    def _behind_weights(self) -> set[str]:
        """Return the tensors that depend on a layer with weights."""
        found: set[str] = set()
        for name in self._order[1:]:
            if self._has_weights(name) or not found.isdisjoint(self._predecessors[name]):
                found.add(name)
        return found

    def _has_weights(self, name: str) -> bool:
        return name in self._predecessors and self._graph.producer[name].op_type in WITH_WEIGHTS

    def _is_score(self, name: str) -> bool:
        """Return whether a tensor holds class scores: it has one channel per class, or no weights follow."""
        shape = self._graph.shapes.get(name, ())
        following = self._graph.downstream(name) - {name}
        return shape[1:2] == (self._classes,) or not any(map(self._has_weights, following & set(self._predecessors)))

    def _coarsest(self) -> str | None:
        """Return the last of the smallest maps on the path down the dominator tree that dominates most weights."""
        weights = dict.fromkeys(self._order, 0)
        for name in reversed(self._order[1:]):
            weights[name] += self._has_weights(name)
            weights[self._idom[name]] += weights[name]
        path = [self._order[0]]
        children = reverse_edges({name: [idom] for name, idom in self._idom.items()})
        while maps := [name for name in children.get(path[-1], ()) if self._cells(name) > 1]:
            path.append(max(maps, key=weights.__getitem__))
        known = [name for name in path if self.is_feature_map(name)]
        return min(reversed(known), key=self._cells, default=None)
