"""Tails: for each tapped layer the rest of the network with its reverse-mode derivative, or the reason for none."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from percept.bundle.manifest import IMAGE
from percept_models.autodiff.errors import UnsupportedOperator
from percept_models.autodiff.tail import LOGITS, build_tail
from percept_models.graph.reader import Graph
from percept_models.graph.subgraph import nodes_between


@dataclass(frozen=True)
class TappedLayer:
    """A tapped layer with its tail, or the reason why it has none.

    `crossing` are the trunk's tensors that bypass the layer, `seeds` the layers that have a seed of their own.
    """

    name: str
    tail: ModelProto | None
    crossing: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()
    unavailable: str = "its tail was left out to keep the bundle small"

    @property
    def tail_file(self) -> str:
        """The name of the tail's file in the bundle."""
        return f"tail.{self.name}.onnx"


def build_tails(graph: Graph, layers: Sequence[str], with_tails: Collection[str] | None) -> list[TappedLayer]:
    """Build the tail of every layer, or only of those `with_tails`."""
    return [
        _build_layer_tail(graph, layer, layers)
        if with_tails is None or layer in with_tails
        else TappedLayer(layer, None)
        for layer in layers
    ]


def _build_layer_tail(graph: Graph, layer: str, layers: Sequence[str]) -> TappedLayer:
    """The tail of a layer; the tail of `image` has a seed for every other layer too."""
    seeds: tuple[str, ...] = ()
    if layer == IMAGE:
        passed = {name for node in nodes_between(graph, layer, LOGITS) for name in node.output}
        seeds = tuple(name for name in layers if name in passed)
    try:
        tail, crossing = build_tail(graph, layer, seeds=seeds)
    except UnsupportedOperator as error:
        return TappedLayer(layer, None, unavailable=str(error))
    return TappedLayer(layer, tail, crossing, seeds)
