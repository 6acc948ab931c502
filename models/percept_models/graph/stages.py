"""The layers to tap: the last feature map of every stage; that of the last stage is the layer for CAM.

In comes a trunk's graph with the tensors that may be tapped; out come those that end a stage. A stage is a run of
feature maps of one stride and dilation, and a map can end it only if it dominates the logits: everything that the
logits receive from that stage passes through it. Names of tensors have no influence, only the nesting of their modules.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from percept.bundle.manifest import TaskName
from percept_models.graph.flow import REARRANGING, DataFlow
from percept_models.graph.reader import Graph

SUMS = frozenset({"Add", "Sum"})
MERGES = SUMS | {"Concat"}
# What may follow a merge in its block.
POINTWISE = frozenset({"BatchNormalization", "Clip", "HardSwish", "LeakyRelu", "PRelu", "Relu"})
TOKEN_ORDERS = ("NTC", "NCT")
PARTS = 4  # of a network whose blocks all have one size, as in DPT (Ranftl et al. 2021, arXiv:2103.13413)


class Nesting(NamedTuple):
    """How deep the module of a tensor lies: in how many blocks, and in how many modules, containers included."""

    blocks: int = 0
    modules: int = 0


def suggest_layers(graph: Graph, task: TaskName, nesting: Mapping[str, Nesting], logits: str = "logits") -> list[str]:
    """Return the keys of `nesting` that end a stage, in topological order; the last is the layer for CAM.

    `nesting` maps each tensor that may be tapped to the nesting of its module. Among the tensors of one stage those in
    the fewest blocks win, then merges of branches, then the last tensor. For classification the last stage is the
    one before the pooling; for segmentation it is the one before the head, and the levels of a feature pyramid are
    suggested too. Of a transformer or mixer, whose maps all have one size, the ends of the quarters are suggested.
    The list is empty where no feature map can be tapped.
    """
    flow = DataFlow(graph, logits)
    chain = flow.classifier_chain() if task == "classification" else flow.segmenter_chain()
    candidates = [name for name in chain if _is_candidate(flow, name, nesting)]
    candidates = [name for name in candidates if not flow.is_score(name)] or candidates
    if not candidates:
        return []
    stages = [list(stage) for _, stage in groupby(candidates, key=flow.stage)]
    levels = {name for name in pyramid_levels(graph) if name in nesting} if task == "segmentation" else set()
    ended = [[name for name in stage if name not in levels] for stage in stages[:-1]]
    found = levels | {_stage_end(graph, _sums_of_tokens(flow, graph, stage), nesting) for stage in ended if stage}
    found |= {*_quarters(flow, graph, stages)}
    if task == "classification":
        found |= {*_branches(flow, graph, candidates, nesting)}
    cam_layer = _cam_layer(flow, graph, stages[-1], nesting)
    return [name for name in graph.producer if name in found - {cam_layer}] + [cam_layer]


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


def _is_candidate(flow: DataFlow, name: str, nesting: Mapping[str, Nesting]) -> bool:
    """Return whether a tensor is a map that may be tapped; one rearranged from another one only in [N,C,h,w]."""
    layout = flow.layout(name)
    if name not in nesting or layout is None or not flow.is_feature_map(name):
        return False
    return layout.order == "NCHW" or nesting.keys().isdisjoint(flow.rearranged_from(name))


def _stage_end(graph: Graph, stage: Sequence[str], nesting: Mapping[str, Nesting]) -> str:
    outermost = _outermost(stage, nesting)
    if merges := [name for name in outermost if _is_merge(graph, name)]:
        fewest = min(nesting[name].modules for name in merges)
        return [name for name in merges if nesting[name].modules == fewest][-1]
    return outermost[-1]


def _sums_of_tokens(flow: DataFlow, graph: Graph, stage: Sequence[str]) -> Sequence[str]:
    """Return the ends of the blocks in a stage that ends with tokens; any other stage itself."""
    sums = [name for name in stage if _holds_tokens(flow, name) and _is_merge(graph, name)]
    return sums if sums and _holds_tokens(flow, stage[-1]) else stage


def _outermost(stage: Sequence[str], nesting: Mapping[str, Nesting]) -> list[str]:
    fewest = min(nesting[name].blocks for name in stage)
    return [name for name in stage if nesting[name].blocks == fewest]


def _cam_layer(flow: DataFlow, graph: Graph, stage: Sequence[str], nesting: Mapping[str, Nesting]) -> str:
    """Return the last map of the last stage; of tokens, the last one before which no weights follow the last sum.

    Of a transformer with a class token this is the normalized input of the last attention: the layer that
    pytorch-grad-cam recommends (`blocks[-1].norm1`), because the cells of every later map have no gradient. With
    global average pooling it is the normalized output of the last block.
    """
    merges = [i for i, name in enumerate(stage) if _is_merge(graph, name)]
    if not merges or not _holds_tokens(flow, stage[-1]):
        return _outermost(stage, nesting)[-1]
    weights = flow.weights_before(stage[merges[-1]])
    return [name for name in stage[merges[-1] :] if flow.weights_before(name) == weights][-1]


def _quarters(flow: DataFlow, graph: Graph, stages: Sequence[Sequence[str]]) -> list[str]:
    """Return the ends of the quarters of the blocks, where all blocks compute tokens of one size."""
    tokens = [stage for stage in stages if _holds_tokens(flow, stage[-1])]
    if len(tokens) != 1:
        return []
    sums = [name for name in tokens[0] if _merge(graph, name) in SUMS]
    return [sums[-(-len(sums) * part // PARTS) - 1] for part in range(1, PARTS)] if len(sums) >= PARTS else []


def _holds_tokens(flow: DataFlow, name: str) -> bool:
    layout = flow.layout(name)
    return layout is not None and layout.order in TOKEN_ORDERS


def _branches(flow: DataFlow, graph: Graph, chain: Sequence[str], nesting: Mapping[str, Nesting]) -> list[str]:
    """Return the last map of every stride of parallel branches, as in HRNet (Sun et al. 2019, arXiv:1902.09212).

    They lie where the chain jumps over strides that other tensors have.
    """
    strides = [flow.stride(name) for name in chain]
    others = {name: flow.stride(name) for name in flow.order if _is_candidate(flow, name, nesting)}
    skipped = {s for s in others.values() if strides[0] < s < max(strides)} - set(strides)
    if not skipped:
        return []
    before = max((name for name, s in zip(chain, strides, strict=True) if s < min(skipped)), key=flow.order.index)
    after = min((name for name, s in zip(chain, strides, strict=True) if s > max(skipped)), key=flow.order.index)
    section = flow.order[flow.order.index(before) + 1 : flow.order.index(after)]
    by_stride: dict[float, list[str]] = {}
    for name in section:
        if name in others and others[name] < flow.stride(after):
            by_stride.setdefault(others[name], []).append(name)
    return [_stage_end(graph, names, nesting) for names in by_stride.values()]


def _is_merge(graph: Graph, name: str) -> bool:
    return _merge(graph, name) is not None


def _merge(graph: Graph, name: str) -> str | None:
    """Return the operator that merges branches into a tensor, which `POINTWISE` operators may follow, or None."""
    node = graph.producer[name]
    while node.op_type in POINTWISE | REARRANGING:
        node = graph.producer[node.input[0]]
    merges = node.op_type in MERGES and sum(i not in graph.foldable for i in node.input) > 1
    return node.op_type if merges else None
