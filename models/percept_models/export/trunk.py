"""The trunk as it is written into a bundle: its outputs are the logits, the layers and what bypasses them."""

from collections.abc import Sequence

from onnx import ModelProto, helper

from percept_models.autodiff.tail import LOGITS
from percept_models.export.tails import TappedLayer
from percept_models.graph.reader import Graph
from percept_models.graph.subgraph import required_nodes


def tap_trunk(trunk: ModelProto, graph: Graph, layers: Sequence[TappedLayer]) -> ModelProto:
    """A copy of the trunk whose outputs are the logits, the layers and the tails' crossing tensors, in graph order."""
    tapped = {tensor for layer in layers for tensor in (layer.name, *layer.crossing)} - {LOGITS}
    copy = ModelProto()
    copy.CopyFrom(trunk)
    del copy.graph.node[:], copy.graph.output[:]
    copy.graph.node.extend(required_nodes(graph.nodes, {LOGITS, *tapped}))
    for name in [LOGITS, *(tensor for tensor in graph.producer if tensor in tapped)]:
        sizes = [size or "N" for size in graph.shapes[name]]
        copy.graph.output.append(helper.make_tensor_value_info(name, graph.types[name], sizes))
    return copy
