"""Feature maps in any layout: which tensors of a graph hold one, and how it lies in them.

In comes a graph; out comes a `Layout` for each tensor that holds a map. `expose_maps` gives the graph a tensor
[N,C,h,w] for maps that lie otherwise, on the path of the data, so that it can be tapped and has gradients.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from percept.bundle.manifest import MapLayout
from percept_models.graph.axes import Axes
from percept_models.graph.factors import BATCH, UNKNOWN
from percept_models.graph.reader import Shape

TO_CHANNELS_FIRST, TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


class Layout(NamedTuple):
    """How a map [N,C,h,w] lies in a tensor; T = h * w cells in one axis come after `prefix` other tokens."""

    order: MapLayout
    channels: int
    height: int
    width: int
    prefix: int = 0

    @property
    def axes(self) -> tuple[int, int] | None:
        """The positions of (y, x) in the tensor, counted from the end; None where they are one axis."""
        return {"NCHW": (-2, -1), "NHWC": (-3, -2)}.get(self.order)

    @property
    def cells(self) -> int:
        """The number of cells of the map."""
        return self.height * self.width


def read_layout(shape: Shape, axes: Axes) -> Layout | None:
    """Return how a map lies in a tensor of this shape with these axes; None where it holds none."""
    if len(axes) != len(shape) or shape[:1] != (None,) or None in shape[1:] or axes[0] not in (BATCH, UNKNOWN):
        return None
    sizes = [size or 0 for size in shape]
    cells = [axis.side or axis.grid or (None if axis.holds_cells else "channels") for axis in axes[1:]]
    match cells:
        case ["channels", "y", "x"]:
            return Layout("NCHW", *sizes[1:])
        case ["y", "x", "channels"]:
            return Layout("NHWC", sizes[3], sizes[1], sizes[2])
        case [(int(height), int(width)), "channels"]:
            return Layout("NTC", sizes[2], height, width, axes[1].prefix)
        case ["channels", (int(height), int(width))]:
            return Layout("NCT", sizes[1], height, width, axes[2].prefix)
    return None


def rename_tensors(model: ModelProto, names: Mapping[str, str]) -> ModelProto:
    """Return the model in which tensors have other names."""
    if not names:
        return model
    result = ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in [*result.graph.value_info, *result.graph.output]:
        value.name = names.get(value.name, value.name)
    return result


def expose_maps(model: ModelProto, layouts: Mapping[str, Layout]) -> ModelProto:
    """Return the model in which each of these tensors is a map [N,C,h,w].

    A tensor in another layout is converted, and converted back for the nodes that use it.
    """
    changed = {name: layout for name, layout in layouts.items() if layout.order != "NCHW"}
    if not changed:
        return model
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        node.input[:] = [f"{name}:restored" if name in changed else name for name in node.input]
        exposed = [name for name in node.output if name in changed]
        node.output[:] = [f"{name}:source" if name in changed else name for name in node.output]
        graph.node.append(node)
        for name in exposed:
            graph.node.extend(_conversion(name, changed[name]))
    for kind in (graph.value_info, graph.output):
        kept = [value for value in kind if value.name not in changed]
        del kind[:]
        kind.extend(kept)
    return result


def _conversion(name: str, layout: Layout) -> Iterator[NodeProto]:
    """Yield the nodes from `name:source` to the map `name`, and from there to `name:restored`."""
    source, restored = f"{name}:source", f"{name}:restored"
    if layout.order == "NHWC":
        yield helper.make_node("Transpose", [source], [name], perm=TO_CHANNELS_FIRST)
        yield helper.make_node("Transpose", [name], [restored], perm=TO_CHANNELS_LAST)
        return
    tokens, axis = layout.prefix + layout.cells, layout.order.index("T")
    cells, rows, joined = source, f"{name}:rows", restored
    if layout.prefix:
        cells, joined = f"{name}:cells", f"{name}:joined"
        yield from _slice(source, f"{name}:prefix", axis, 0, layout.prefix)
        yield from _slice(source, cells, axis, layout.prefix, tokens)
    if layout.order == "NTC":
        yield helper.make_node("Transpose", [cells], [rows], perm=(0, 2, 1))
        cells = rows
    yield from _reshape(cells, name, (layout.channels, layout.height, layout.width))
    ends = f"{name}:flat" if layout.order == "NTC" else joined
    yield from _reshape(name, ends, (layout.channels, layout.cells))
    if layout.order == "NTC":
        yield helper.make_node("Transpose", [ends], [joined], perm=(0, 2, 1))
    if layout.prefix:
        yield helper.make_node("Concat", [f"{name}:prefix", joined], [restored], axis=axis)


def _reshape(source: str, target: str, sizes: tuple[int, ...]) -> Iterator[NodeProto]:
    """Yield the reshape of a tensor [N,...] to [N,*sizes]; 0 keeps N."""
    yield _constant(f"{target}:shape", (0, *sizes))
    yield helper.make_node("Reshape", [source, f"{target}:shape"], [target])


def _slice(source: str, target: str, axis: int, start: int, end: int) -> Iterator[NodeProto]:
    numbers = {"start": start, "end": end, "axis": axis}
    for word, number in numbers.items():
        yield _constant(f"{target}:{word}", (number,))
    yield helper.make_node("Slice", [source, *(f"{target}:{word}" for word in numbers)], [target])


def _constant(name: str, values: tuple[int, ...]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(values, np.int64)))
