"""Tails: for each tapped layer the rest of the network with its reverse-mode derivative, or the reason for none."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from onnx import ModelProto

from percept.bundle.manifest import IMAGE
from percept_models.autodiff.errors import UnsupportedOperator
from percept_models.autodiff.tail import LOGITS, build_tail
from percept_models.export.file_name import file_stems
from percept_models.graph.reader import Graph
from percept_models.graph.subgraph import nodes_between


@dataclass(frozen=True)
class TappedLayer:
    """A tapped layer with its tail, or the reason why it has none.

    `crossing` are the trunk's tensors that bypass the layer, `seeds` the layers that have a seed of their own.
    """

    name: str
    tail: ModelProto | None
    tail_file: str
    crossing: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()
    unavailable: str = "its tail was left out to keep the bundle small"

    def without_tail(self) -> "TappedLayer":
        """Leave the tail out; a reason why there is none stays."""
        return TappedLayer(self.name, None, self.tail_file) if self.tail else self


def build_tails(
    graph: Graph,
    layers: Sequence[str],
    with_tails: Collection[str] | None = None,
    unavailable: Mapping[str, str] = MappingProxyType({}),
) -> list[TappedLayer]:
    """Build the tail of every layer, or only of those `with_tails`; `unavailable` are reasons why layers get none."""
    files = {layer: f"tail.{stem}.onnx" for layer, stem in file_stems(layers).items()}
    tails = []
    for layer in layers:
        if layer in unavailable:
            tails.append(TappedLayer(layer, None, files[layer], unavailable=unavailable[layer]))
        elif with_tails is not None and layer not in with_tails:
            tails.append(TappedLayer(layer, None, files[layer]))
        else:
            tails.append(_build_layer_tail(graph, layer, layers, files[layer]))
    return tails


def _build_layer_tail(graph: Graph, layer: str, layers: Sequence[str], file: str) -> TappedLayer:
    """The tail of a layer; the tail of `image` has a seed for every other layer too."""
    seeds: tuple[str, ...] = ()
    if layer == IMAGE:
        passed = {name for node in nodes_between(graph, layer, LOGITS) for name in node.output}
        seeds = tuple(name for name in layers if name in passed)
    try:
        tail, crossing = build_tail(graph, layer, seeds=seeds)
    except UnsupportedOperator as error:
        return TappedLayer(layer, None, file, unavailable=str(error))
    return TappedLayer(layer, tail, file, crossing, seeds)
