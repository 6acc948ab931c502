"""The arithmetic of receptive fields: which input pixels a cell of a feature map depends on.

`Axis` describes one spatial axis, `Field` both; the functions derive the axis of an output from the axis of an input.
Pixel i covers [i, i+1): the input itself has fields of size 1, the first centred at 0.5. A field is
not clipped at the image's border: it may extend into the padding. Arithmetic after Araujo et al. 2019,
distill.pub/2019/computing-receptive-fields. This module knows no operator.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, isfinite
from typing import NamedTuple

import numpy as np

from percept.bundle.manifest import ReceptiveField
from percept_models.graph.reader import Array


class Axis(NamedTuple):
    """One axis: the first cell depends on the pixels [low, high), each next cell on the pixels `stride` further.

    `low` and `high` are infinite where a cell depends on every pixel. `dilation` is the greatest of any window so far.
    `dim` says which axis of the tensor it is, counted from the end as in broadcasting: the last is -1.
    """

    low: float = 0.0
    high: float = 1.0
    stride: float = 1.0
    dilation: int = 1
    dim: int = -1


Y, X = Axis(dim=-2), Axis(dim=-1)


@dataclass(frozen=True)
class Field:
    """The receptive field of a feature map's cells along (y, x)."""

    y: Axis = Y
    x: Axis = X

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """The entry of the manifest; None where the field is not finite."""
        axes = (self.y, self.x)
        if not all(isfinite(a.low) and isfinite(a.high) for a in axes):
            return None
        size = [max(ceil(a.high - a.low - 1e-6), 1) for a in axes]
        start = [(a.low + a.high) / 2 for a in axes]
        return ReceptiveField(size=(size[0], size[1]), start=(start[0], start[1]))

    @property
    def stride(self) -> tuple[float, float]:
        """Input pixels from one cell to the next."""
        return self.y.stride, self.x.stride

    @property
    def dilation(self) -> tuple[int, int]:
        """The greatest dilation of any window between the image and this map."""
        return self.y.dilation, self.x.dilation


def merge(fields: Sequence[Field | None]) -> Field | None:
    """Return the union of the fields of maps that are combined cell by cell; unbounded where one of them is unknown.

    None where all are unknown, or (y, x) are not the same axes in all.
    """
    known = [field for field in fields if field is not None]
    if len({(f.y.dim, f.x.dim) for f in known}) != 1:
        return None
    y, x = _merge_axes([f.y for f in known]), _merge_axes([f.x for f in known])
    return Field(y, x) if len(known) == len(fields) else Field(unbounded(y), unbounded(x))


def _merge_axes(axes: Sequence[Axis]) -> Axis:
    return Axis(
        min(a.low for a in axes),
        max(a.high for a in axes),
        min(a.stride for a in axes),
        max(a.dilation for a in axes),
        axes[0].dim,
    )


def unbounded(a: Axis, cells: int | None = 1) -> Axis:
    """Return an axis whose cells depend on every pixel; each replaces `cells` cells of the input."""
    return a._replace(low=-inf, high=inf, stride=a.stride * (cells or 1))


def shift(a: Axis, cells: int) -> Axis:
    """Return an axis whose cell i is cell i + `cells` of the input."""
    return a._replace(low=a.low + cells * a.stride, high=a.high + cells * a.stride)


def multiply(a: Axis, matrix: Array) -> Axis:
    """Return the axis of y = P x, P [outputs, inputs]: cell i depends on the cells j where P_ij is not zero.

    Where cells reach differently far, the field is the union over all cells.
    """
    outputs, inputs = matrix.shape
    nonzero = np.abs(matrix) > 1e-6 * np.abs(matrix).max()
    position = np.arange(outputs) * (inputs / outputs)
    low = float((nonzero.argmax(1) - position).min())
    high = float((inputs - 1 - nonzero[:, ::-1].argmax(1) - position).max())
    return a._replace(low=a.low + low * a.stride, high=a.high + high * a.stride, stride=a.stride * inputs / outputs)
