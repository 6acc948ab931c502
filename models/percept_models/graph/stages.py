"""Where a network is worth looking at: the ends of its stages, the last of them the layer for CAM.

In comes a trunk's graph with the tensors that may be tapped; out go those that close a stage: all that the logits
learn at one stride and dilation passes through them. A tensor dominates another where every path from the pixels to it
leads through it (Cooper, Harvey and Kennedy 2001, "A simple, fast dominance algorithm", on an acyclic graph);
post-dominance is the same towards the logits. What the tensors are called matters only by how deep their modules
are nested.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import groupby
from math import prod

from percept.bundle.manifest import Task
from percept_models.graph.reader import Graph
from percept_models.graph.receptive_field import fields

LEARNED = frozenset({"Conv", "ConvTranspose", "Gemm"})
MERGES = frozenset({"Add", "Concat", "Sum"})
ELEMENTWISE = frozenset({"BatchNormalization", "Clip", "HardSwish", "LeakyRelu", "PRelu", "Relu"})
PASSING = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool", "Pad", "Resize"})


def suggest(graph: Graph, task: Task, nesting: Mapping[str, int], logits: str = "logits") -> list[str]:
    """The tensors among the keys of `nesting` that end a stage, in order; the last is the layer for CAM.

    `nesting` says how deep the module of a tensor lies: of one stage's tensors those of an outer module win, then
    those that merge branches, then the last. For classification the last stage is the one before the pooling, for
    segmentation the one before the head; there the levels of a feature pyramid are suggested too. Empty where the
    network has no spatial tensor to tap.
    """
    flow = Flow(graph, logits)
    spine = flow.classifier() if task == "classification" else flow.segmenter()
    open_to_taps = [name for name in spine if name in nesting and flow.computed(name)]
    runs = [list(run) for _, run in groupby(open_to_taps, key=flow.stage)]
    ends = [_end(graph, run, nesting, last=run is runs[-1]) for run in runs]
    levels = {name for name in pyramid(graph) if name in nesting} if task == "segmentation" else set()
    return [name for name in graph.producer if name in levels.union(ends[:-1]) - {*ends[-1:]}] + ends[-1:]


def pyramid(graph: Graph) -> list[str]:
    """The levels of a feature pyramid, the coarsest first: each the sum of the one above, enlarged, and a branch.

    Lin et al. 2017, arXiv:1612.03144. Empty where no more than one is so made.
    """
    above = {
        name: graph.producer[source].input[0]
        for name, node in graph.producer.items()
        for source in node.input
        if node.op_type == "Add" and source in graph.producer and graph.producer[source].op_type == "Resize"
    }
    linked = {name for pair in above.items() if pair[1] in above for name in pair}
    return [name for name in graph.producer if name in linked | {above[name] for name in linked & above.keys()}]


def _end(graph: Graph, run: Sequence[str], nesting: Mapping[str, int], last: bool) -> str:
    """The tensor that ends a stage, of all of the stage."""
    outer = min(nesting[name] for name in run)
    outermost = [name for name in run if nesting[name] == outer]
    merged = [] if last else [name for name in outermost if _merges(graph, name)]
    return (merged or outermost)[-1]


def _merges(graph: Graph, name: str) -> bool:
    """Whether a tensor is the sum or concatenation of branches, or elementwise of one."""
    node = graph.producer[name]
    while node.op_type in ELEMENTWISE:
        node = graph.producer[node.input[0]]
    return node.op_type in MERGES and sum(i not in graph.fixed for i in node.input) > 1


class Flow:
    """The tensors through which the pixels reach the logits, and who dominates whom."""

    def __init__(self, graph: Graph, logits: str) -> None:
        self._graph, self._logits = graph, logits
        root = next(v.name for v in graph.model.graph.input if v.name not in graph.constants)
        before: dict[str, list[str]] = {root: []}
        for name, node in graph.producer.items():
            sources = [i for i in node.input if i in before]
            if sources and graph.dtype(name).kind in "fu":  # sizes and indices are no way from the pixels to the logits
                before[name] = sources
        self._order = _ancestors(before, logits)
        self._before = {name: before[name] for name in self._order[1:]}
        self._above = dominators(self._order, self._before)
        self._classes = graph.shapes[logits][1]
        self._learned = self._behind_weights()
        self._reach = fields(graph)

    def cells(self, name: str) -> tuple[int | None, ...]:
        """The height and width of a feature map."""
        return self._graph.shapes.get(name, ())[2:]

    def stage(self, name: str) -> object:
        """What all feature maps of a stage have in common: stride and dilation, or their size."""
        field = self._reach.get(name)
        return (field.stride, field.dilation) if field else self.cells(name)

    def computed(self, name: str) -> bool:
        """Whether a tensor is a feature map [N,C,h,w] of several cells, computed by weights, not only pooled."""
        graph = self._graph
        shape, node = graph.shapes.get(name, ()), graph.producer.get(name)
        if len(shape) != 4 or node is None or None in shape[1:] or prod(s or 1 for s in shape[2:]) == 1:
            return False
        scaled = node.op_type == "MatMul" and self.cells(node.input[1]) != shape[2:]
        return node.op_type not in PASSING and not scaled and name in self._learned

    def classifier(self) -> list[str]:
        """The dominators of the logits: what no branch goes around."""
        return path(self._above, self._logits)

    def segmenter(self) -> list[str]:
        """The dominators of the coarsest map and its post-dominators, without the head that makes class scores."""
        after = _reversed(self._before)
        below = dominators(self._order[::-1], after)
        coarse = self._coarsest()
        if coarse is None:
            return []
        behind = path(below, coarse)[::-1]
        end = max(i for i, name in enumerate(behind) if self.cells(name) == self.cells(coarse))
        whole = [*path(self._above, behind[end]), *behind[end + 1 :]]
        return [n for n in whole if not self._scores(n)]

    def _behind_weights(self) -> set[str]:
        """The tensors behind a layer with weights."""
        found: set[str] = set()
        for name in self._order[1:]:
            if self._weighs(name) or not found.isdisjoint(self._before[name]):
                found.add(name)
        return found

    def _weighs(self, name: str) -> bool:
        return name in self._before and self._graph.producer[name].op_type in LEARNED

    def _scores(self, name: str) -> bool:
        """Whether a tensor holds scores of classes: one channel each, or no weights are to come."""
        shape = self._graph.shapes.get(name, ())
        to_come = self._graph.downstream(name) - {name}
        return shape[1:2] == (self._classes,) or not any(map(self._weighs, to_come & set(self._before)))

    def _coarsest(self) -> str | None:
        """The last of the smallest maps, going down the dominator tree to where most weights are dominated."""
        weight = dict.fromkeys(self._order, 0)
        for name in reversed(self._order[1:]):
            weight[name] += self._weighs(name)
            weight[self._above[name]] += weight[name]
        below: dict[str, list[str]] = {}
        for name, above in self._above.items():
            below.setdefault(above, []).append(name)
        way = [self._order[0]]
        while maps := [n for n in below.get(way[-1], ()) if prod(s or 1 for s in self.cells(n)) > 1]:
            way.append(max(maps, key=weight.__getitem__))
        known = [name for name in way if self.computed(name)]
        return min(reversed(known), key=lambda name: prod(s or 1 for s in self.cells(name)), default=None)


def dominators(order: Sequence[str], before: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """The immediate dominator of every vertex but the first; `order` is topological, `before` gives the edges."""
    depth, above = {order[0]: 0}, dict[str, str]()

    def meet(a: str, b: str) -> str:
        while a != b:
            if depth[a] < depth[b]:
                a, b = b, a
            a = above[a]
        return a

    for vertex in order[1:]:
        above[vertex] = reduce(meet, before[vertex])
        depth[vertex] = depth[above[vertex]] + 1
    return above


def path(above: Mapping[str, str], vertex: str) -> list[str]:
    """The dominators of a vertex from the root to itself."""
    found = [vertex]
    while found[-1] in above:
        found.append(above[found[-1]])
    return found[::-1]


def _ancestors(before: Mapping[str, Sequence[str]], vertex: str) -> list[str]:
    """A vertex and all from which it can be reached, in the order of `before`, which is topological."""
    wanted = {vertex}
    kept = []
    for name in reversed(list(before)):
        if name in wanted:
            wanted.update(before[name])
            kept.append(name)
    return kept[::-1]


def _reversed(before: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The same edges the other way round."""
    after: dict[str, list[str]] = {}
    for name, sources in before.items():
        for source in sources:
            after.setdefault(source, []).append(name)
    return after
