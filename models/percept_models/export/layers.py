"""The tapped layers of a bundle: which ones, and how the manifest describes each."""

from collections.abc import Mapping, Sequence

from percept.bundle.manifest import IMAGE, Layer, Tail, TaskName
from percept.errors import BundleError
from percept_models.export.options import ExportOptions
from percept_models.export.source_network import SourceNetwork
from percept_models.export.tails import TappedLayer
from percept_models.graph.field import Field
from percept_models.graph.reader import Graph
from percept_models.graph.stages import suggest_layers

LISTED_LAYERS = 20  # in the message about an unknown layer


def select_layers(
    options: ExportOptions, source: SourceNetwork, graph: Graph, task: TaskName
) -> tuple[tuple[str, ...], str]:
    """The layers to tap, `image` first, and the CAM layer, as named in the options or suggested from the graph.

    Raises `BundleError` where there is no feature map, or not the one that the options name.
    """
    layers = list(options.layers) or suggest_layers(graph, task, source.nesting)
    if options.cam_layer and options.cam_layer not in layers:
        layers.append(options.cam_layer)
    if not layers:
        raise BundleError("no feature map was found to tap: name some with --layers")
    _require_feature_maps(layers, source, graph)
    return tuple(dict.fromkeys([IMAGE, *layers])), options.cam_layer or layers[-1]


def _require_feature_maps(layers: Sequence[str], source: SourceNetwork, graph: Graph) -> None:
    feature_maps = [name for name in source.nesting if _is_feature_map(graph, name)]
    if unknown := [layer for layer in layers if layer not in (IMAGE, *feature_maps)]:
        known = ", ".join(feature_maps[-LISTED_LAYERS:])
        raise BundleError(f"there is no feature map {unknown[0]!r}; the last ones are {known}")


def _is_feature_map(graph: Graph, tensor: str) -> bool:
    """Whether a tensor is [N,C,h,w] with known C, h and w."""
    shape = graph.shapes.get(tensor, ())
    return len(shape) == 4 and None not in shape[1:]


def describe_layer(graph: Graph, layer: TappedLayer, fields: Mapping[str, Field]) -> Layer:
    """The manifest's entry of a tapped layer; `fields` holds the receptive fields of the graph's tensors."""
    channels, height, width = (size or 0 for size in graph.shapes[layer.name][1:])
    field = fields.get(layer.name, Field())
    return Layer(
        name=layer.name,
        shape=(channels, height, width),
        stride=field.stride,
        dilation=field.dilation,
        receptive_field=field.receptive_field if layer.name in fields else None,
        tail=Tail(file=layer.tail_file, crossing=layer.crossing, seeds=layer.seeds) if layer.tail else None,
        unavailable=None if layer.tail else layer.unavailable,
    )
