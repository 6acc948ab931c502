"""The taps of a network: its trunk with a map [N,C,h,w] for every layer, the tails, and the layer for CAM."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from percept.bundle.manifest import IMAGE, MapLayout, TaskName
from percept_models.export.layers import SelectedLayers, select_layers
from percept_models.export.options import ExportOptions
from percept_models.export.source_network import SourceNetwork
from percept_models.export.tails import TappedLayer, build_tails
from percept_models.graph.layout import expose_maps, rename_tensors
from percept_models.graph.reader import Graph

WITHOUT_GRADIENTS = "only methods that need none work there, such as eigencam, scorecam and rise"


@dataclass(frozen=True)
class TappedNetwork:
    """A trunk whose layers are maps [N,C,h,w], `image` first, with their tails.

    `aliases` are other names of layers, `layouts` how the maps lie in the source network. `warnings` say what a user of
    the bundle will miss.
    """

    trunk: ModelProto
    graph: Graph
    layers: Sequence[TappedLayer]
    cam_layer: str
    aliases: Mapping[str, Sequence[str]]
    layouts: Mapping[str, MapLayout]
    warnings: Sequence[str] = ()


def tap_network(options: ExportOptions, source: SourceNetwork, task: TaskName) -> TappedNetwork:
    """Tap the layers that the options name, or those that end the stages of the network.

    Where the layer for CAM has no gradients, the nearest that has some takes its place, unless the user named it. In
    lower precision only the layers that the user named and the layer for CAM keep their tails, which are in float32.
    """
    selected = select_layers(options, source, Graph(source.trunk), task)
    trunk = rename_tensors(expose_maps(source.trunk, selected.layouts), selected.names)
    graph = Graph(trunk)
    unavailable = {selected.name(tensor): reason for tensor, reason in selected.unavailable.items()}
    layers = build_tails(graph, [selected.name(tensor) for tensor in selected.tensors], unavailable=unavailable)
    wanted = selected.name(selected.cam_layer)
    cam_layer, warnings = _choose_cam_layer(layers, wanted, named=bool(options.cam_layer))
    if options.precision != "float32":
        kept = {selected.name(tensor) for tensor in selected.named} | {cam_layer}
        layers = [layer if layer.name in kept else layer.without_tail() for layer in layers]
    return TappedNetwork(
        trunk=trunk,
        graph=graph,
        layers=layers,
        cam_layer=cam_layer,
        aliases=_aliases(source, selected),
        layouts={selected.name(tensor): layout.order for tensor, layout in selected.layouts.items()},
        warnings=warnings,
    )


def _choose_cam_layer(layers: Sequence[TappedLayer], wanted: str, named: bool) -> tuple[str, list[str]]:
    """The layer for CAM, and what the user must know about it: the nearest with gradients unless the user named one."""
    names = [layer.name for layer in layers]
    position = names.index(wanted)
    if layers[position].tail:
        return wanted, []
    reason = f"the layer {wanted} has no gradients ({layers[position].unavailable})"
    found = [i for i, layer in enumerate(layers) if layer.tail and layer.name != IMAGE]
    if not found:
        return wanted, [f"{reason}, nor has any other: {WITHOUT_GRADIENTS}"]
    nearest = names[min(found, key=lambda i: (abs(i - position), -i))]
    if named:
        return wanted, [f"{reason}: {WITHOUT_GRADIENTS}; the nearest layer with gradients is {nearest}"]
    return nearest, [f"{reason}: {nearest} is the CAM layer in its place (--cam-layer chooses another one)"]


def _aliases(source: SourceNetwork, selected: SelectedLayers) -> dict[str, tuple[str, ...]]:
    """The other names of each layer: that of the tensor, and that in the file; none is a name of another layer."""
    taken = {selected.name(tensor) for tensor in selected.tensors}
    found: dict[str, tuple[str, ...]] = {}
    for tensor in selected.tensors:
        names = dict.fromkeys([tensor, *source.aliases.get(tensor, ())])
        found[selected.name(tensor)] = tuple(name for name in names if name not in taken)
        taken.update(names)
    return found
