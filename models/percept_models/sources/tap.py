"""Taps: the output of a module as a map [N,C,h,w], on the path of the data, so that it has gradients.

The functions do in torch what `percept_models.graph.layout.expose_maps` does in a graph.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from percept_models.graph.layout import TO_CHANNELS_FIRST, TO_CHANNELS_LAST, Layout

Hook = Callable[[nn.Module, Any, Any], Tensor | None]


def tap_hook(taps: dict[str, Tensor], name: str, layout: Layout | None) -> Hook:
    """A forward hook that stores the map of a module in `taps`; None takes the output for [N,C,h,w]."""

    def store(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        if layout is None or layout.order == "NCHW":
            taps[name] = output
            return None
        taps[name], restored = expose_map(output, layout)
        return restored

    return store


def expose_map(output: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """The map [N,C,h,w] in a tensor, and the tensor again, computed from the map."""
    if layout.order == "NHWC":
        tap = output.permute(TO_CHANNELS_FIRST)
        return tap, tap.permute(TO_CHANNELS_LAST)
    axis = layout.order.index("T")
    prefix, cells = output.tensor_split([output.shape[axis] - layout.cells], axis)
    rows = cells.transpose(1, 2) if axis == 1 else cells
    tap = rows.reshape(-1, layout.channels, layout.height, layout.width)
    rows = tap.flatten(2)
    return tap, torch.cat([prefix, rows.transpose(1, 2) if axis == 1 else rows], axis)
