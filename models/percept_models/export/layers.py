"""The tapped layers of a bundle: which ones, under which names, and how the manifest describes each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from percept.bundle.manifest import IMAGE, Layer, MapLayout, Tail, TaskName
from percept.errors import BundleError
from percept_models.autodiff.tail import LOGITS
from percept_models.export.layer_names import name_layers
from percept_models.export.options import ExportOptions
from percept_models.export.source_network import SourceNetwork
from percept_models.export.tails import TappedLayer
from percept_models.graph.field import Field
from percept_models.graph.flow import DataFlow
from percept_models.graph.layout import Layout
from percept_models.graph.reader import Graph
from percept_models.graph.stages import suggest_layers

LISTED_LAYERS = 20  # in the message about an unknown layer
NO_GRID = "after it the network computes tokens whose grid of cells is not known"
NO_CELLS = "the logits use the class token alone after it: its cells have no gradient"


@dataclass(frozen=True)
class SelectedLayers:
    """The tensors of a trunk to tap, `image` first and those that the user named, and what is known of each.

    `layouts` says how the map lies in each tensor but `image`, `names` which tensors become layers of another name.
    `unavailable` has the reason why a layer gets no gradients, even though its tail could be built.
    """

    tensors: tuple[str, ...]
    named: tuple[str, ...]
    cam_layer: str
    layouts: Mapping[str, Layout]
    names: Mapping[str, str]
    unavailable: Mapping[str, str]

    def name(self, tensor: str) -> str:
        """The name of the layer that a tensor becomes."""
        return self.names.get(tensor, tensor)


def select_layers(options: ExportOptions, source: SourceNetwork, graph: Graph, task: TaskName) -> SelectedLayers:
    """Select the layers that the options name, else those that end the stages of the network.

    Raises `BundleError` where there is no feature map, or not the one that the options name.
    """
    flow = DataFlow(graph, LOGITS)
    suggested = suggest_layers(graph, task, source.nesting)
    unnamed = {} if source.is_torch else {name: _read_layout(flow, graph, name, source) for name in suggested}
    readable = name_layers(graph, unnamed, source.modules)
    tensors = _tensors_by_name(source, readable)
    given = [*options.layers, *filter(None, [options.cam_layer])]
    layers = [tensors.get(name, name) for name in (options.layers or suggested)]
    cam_layer = tensors.get(options.cam_layer or "", options.cam_layer) or (layers or [""])[-1]
    layers = list(dict.fromkeys(filter(None, [*layers, cam_layer])))
    if not layers:
        raise BundleError("no feature map was found to tap: name some with --layers")
    layouts = {name: _read_layout(flow, graph, name, source) for name in layers if name != IMAGE}
    paths = {tensor: path for tensor, path in source.modules.items() if path in given and path not in source.nesting}
    names = {tensor: name for tensor, name in (paths | readable).items() if tensor in layouts and tensor not in given}
    is_last_suggested = bool(suggested) and not options.layers and task == "classification"
    loses_grid = is_last_suggested and flow.loses_grid_after(suggested[-1])
    return SelectedLayers(
        tensors=tuple(dict.fromkeys([IMAGE, *layers])),
        named=tuple(layers) if options.layers else (),
        cam_layer=cam_layer,
        layouts=layouts,
        names=names,
        unavailable=_find_unavailable(flow, layouts, loses_grid),
    )


def _find_unavailable(flow: DataFlow, tensors: Iterable[str], loses_grid: bool) -> dict[str, str]:
    """The reason for each tensor that gets no gradients; `loses_grid` concerns them all."""
    if loses_grid:
        return dict.fromkeys(tensors, NO_GRID)
    return {name: NO_CELLS for name in tensors if flow.layout(name) and not flow.uses_cells(name)}


def _tensors_by_name(source: SourceNetwork, readable: Mapping[str, str]) -> dict[str, str]:
    """The tensor of each name that the user may give instead: that in the file, of its module, or of its layer."""
    aliases = {alias: tensor for tensor, names in source.aliases.items() for alias in names}
    others = {name: tensor for names in (source.modules, readable) for tensor, name in names.items()}
    return {name: tensor for name, tensor in (aliases | others).items() if name not in source.nesting}


def _read_layout(flow: DataFlow, graph: Graph, name: str, source: SourceNetwork) -> Layout:
    """How the map lies in a tensor; a tensor of four axes whose layout is not known is taken for [N,C,h,w]."""
    if not name.isprintable():
        raise BundleError(f"{name!r} cannot be a layer: rename it without control characters")
    if name in source.nesting and (layout := flow.layout(name)):
        return layout
    shape = graph.shapes.get(name, ())
    if name not in source.nesting or len(shape) != 4 or None in shape[1:]:
        raise BundleError(_no_feature_map(flow, name, source))
    channels, height, width = (size or 0 for size in shape[1:])
    return Layout("NCHW", channels, height, width)


def _no_feature_map(flow: DataFlow, name: str, source: SourceNetwork) -> str:
    """The message about a layer that is none: the layers with similar names, or the last ones."""
    known = [tensor for tensor in source.nesting if flow.is_feature_map(tensor)]
    similar = get_close_matches(name, known, LISTED_LAYERS)
    listed, kind = (similar, "similar names are") if similar else (known[-LISTED_LAYERS:], "the last ones are")
    return f"there is no feature map {name!r}; {kind} {', '.join(listed)}"


def describe_layer(
    graph: Graph, layer: TappedLayer, fields: Mapping[str, Field], layout: MapLayout, aliases: Sequence[str]
) -> Layer:
    """The manifest's entry of a tapped layer; `fields` holds the receptive fields of the graph's tensors."""
    channels, height, width = (size or 0 for size in graph.shapes[layer.name][1:])
    field = fields.get(layer.name, Field())
    return Layer(
        name=layer.name,
        aliases=tuple(aliases),
        layout=layout,
        shape=(channels, height, width),
        stride=field.stride,
        dilation=field.dilation,
        receptive_field=field.receptive_field if layer.name in fields else None,
        tail=Tail(file=layer.tail_file, crossing=layer.crossing, seeds=layer.seeds) if layer.tail else None,
        unavailable=None if layer.tail else layer.unavailable,
    )
