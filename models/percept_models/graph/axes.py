"""Where the axes of an image are in each tensor: which axis holds the batch, the height and the width of a map.

In comes a graph; out comes a `CompositeAxis` for each axis of each tensor. It is known exactly, by its factors: a
reshape may split the height into windows and the rows of each, merge height and width into tokens, or move windows
into the batch, and a later one may undo it. So a feature map is recognized in any layout: [N,C,h,w], [N,h,w,C] or
[N,T,C]. Where an operator mixes the axes in an unknown way they are lost, until a sum with another tensor restores
them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from onnx import NodeProto

from percept_models.graph.axis_rules import Sources, axis_sources, selected_range
from percept_models.graph.factors import BATCH, RESHAPES, UNKNOWN, CompositeAxis, reshape, side
from percept_models.graph.reader import Graph, Shape, attributes

Axes = tuple[CompositeAxis, ...]
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
IMAGE_CHANNELS = (1, 3, 4)


class Part(NamedTuple):
    """An axis of one input of a node."""

    axis: CompositeAxis
    size: int | None


def find_axes(graph: Graph) -> dict[str, Axes]:
    """Return the axes of every tensor that depends on the graph's image and has a known rank."""
    found: dict[str, Axes] = {}
    for value in graph.model.graph.input:
        if value.name not in graph.constants and len(graph.shapes.get(value.name, ())) == 4:
            found[value.name] = image_axes(graph.shapes[value.name])
    for node in graph.nodes:
        if found.keys().isdisjoint(node.input):
            continue
        for i, output in enumerate(node.output):
            if output in graph.shapes:
                found[output] = _output_axes(graph, node, i, found)
    return found


def image_axes(shape: Shape) -> Axes:
    """Return the axes of an image: pixels [N,H,W,C], or else [N,C,H,W]."""
    if shape[-1] in IMAGE_CHANNELS and shape[1] not in IMAGE_CHANNELS:
        return (BATCH, side("y", shape[1]), side("x", shape[2]), UNKNOWN)
    return (BATCH, UNKNOWN, side("y", shape[2]), side("x", shape[3]))


def token_axis(axes: Axes) -> int | None:
    """Return the axis of the tokens; None where there is none, or several as in the weights of an attention."""
    found = [i for i, axis in enumerate(axes) if axis.grid]
    return found[0] if len(found) == 1 else None


def _output_axes(graph: Graph, node: NodeProto, output: int, found: Mapping[str, Axes]) -> Axes:
    shape = graph.shapes[node.output[output]]
    if node.op_type in RESHAPES:
        before = graph.shapes.get(node.input[0])
        known = before is not None and node.input[0] in found
        return reshape(before or (), shape, found[node.input[0]]) if known else (UNKNOWN,) * len(shape)
    sources = axis_sources(graph, node, output)
    if sources is None:
        return (UNKNOWN,) * len(shape)
    axes = [_follow(graph, node, output, i, parts, found) for i, parts in enumerate(sources)]
    lost = not any(axis.holds_cells for axis in found.get(node.input[0], ()))
    if node.op_type in CONVOLUTIONS and len(axes) == 4 and lost:
        axes[2:] = [side("y", shape[2]), side("x", shape[3])]
    return tuple(axes)


def _follow(
    graph: Graph, node: NodeProto, output: int, position: int, sources: Sources, found: Mapping[str, Axes]
) -> CompositeAxis:
    """Return the axis of an output from those that it comes from, if all that are known agree."""
    parts = [_part(graph, node.input[i], axis, found) for i, axis in sources]
    known = [part for part in parts if part.axis != UNKNOWN]
    size = graph.shapes[node.output[output]][position]
    if known and node.op_type == "Concat" and attributes(node)["axis"] % len(graph.shapes[node.output[0]]) == position:
        return _joined(parts, size)
    if not known or any(part.axis.pattern != known[0].axis.pattern for part in known):
        return UNKNOWN
    if sources[0][0] == 0:
        selected = selected_range(graph, node, output, sources[0][1])
        if selected is not None:
            return known[0].axis.select(selected)
    return known[0].axis.resized(size)


def _part(graph: Graph, name: str, position: int, found: Mapping[str, Axes]) -> Part:
    axis = found[name][position] if name in found else UNKNOWN
    return Part(axis, graph.shapes[name][position] if name in graph.shapes else None)


def _joined(parts: Sequence[Part], size: int | None) -> CompositeAxis:
    """Return the axis along which inputs were joined: other tokens may come before those of a map."""
    if len({part.axis.side for part in parts}) == 1 and parts[0].axis.side:
        return parts[0].axis.resized(size)
    *before, last = parts
    sizes = [part.size for part in before]
    if last.axis.grid and None not in sizes and all(part.axis == UNKNOWN for part in before):
        return last.axis._replace(prefix=last.axis.prefix + sum(size or 0 for size in sizes))
    return UNKNOWN
