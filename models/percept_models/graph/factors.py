"""An axis of a tensor as a product of the axes of an image, and what a reshape does to it.

As the axis `(h w)` in the notation of einops has the factors h and w, an axis has a factor for each axis of the image
that it holds, or for a part of one: 56 rows in windows of 7 are a factor of 8 windows, whose step is 7 rows, and a
factor of 7 rows. A reshape moves whole factors, or splits one.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import NamedTuple

from percept_models.graph.reader import Shape

N, OTHER = "n", ""
RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})  # operators that `reshape` describes


class Factor(NamedTuple):
    """A part of the image's axis `of`: n, y, x, or none of them.

    It has `size` positions, each `step` cells after the one before; the whole axis has `total` cells.
    """

    of: str
    size: int
    step: int = 1
    total: int = 0

    @property
    def is_outermost(self) -> bool:
        """Whether the factor spans its axis of the image."""
        return self.size * self.step == self.total


class CompositeAxis(NamedTuple):
    """The factors of an axis, the one with the greatest step first; the cells come after `prefix` other tokens."""

    factors: tuple[Factor, ...] = ()
    prefix: int = 0

    @property
    def holds_cells(self) -> bool:
        """Whether the axis holds a part of the height or the width."""
        return any(factor.of in ("y", "x") for factor in self.factors)

    @property
    def holds_batch(self) -> bool:
        """Whether the axis is the batch, or holds it with others."""
        return any(factor.of == N for factor in self.factors)

    @property
    def side(self) -> str | None:
        """`y` or `x`, where the axis is that side of a map."""
        factor = self.factors[0] if len(self.factors) == 1 else Factor(OTHER, 1)
        return factor.of if factor.of in ("y", "x") and factor.is_outermost and not self.prefix else None

    @property
    def grid(self) -> tuple[int, int] | None:
        """The height and width of a map whose cells are the axis row by row: tokens."""
        match self.factors:
            case (Factor("y") as y, Factor("x") as x) if y.is_outermost and x.is_outermost:
                return y.size, x.size
        return None

    @property
    def pattern(self) -> tuple[object, ...]:
        """The prefix and the factors without their steps: the same for two axes whose cells lie in the same places."""
        return (self.prefix, *((factor.of, factor.size) for factor in self.factors))

    def resized(self, size: int | None) -> "CompositeAxis":
        """Return the axis after an operator that may have changed its size, such as pooling: only a side stays one."""
        if self.prefix + prod(factor.size for factor in self.factors) == size or (size is None and self.holds_batch):
            return self
        return side(self.side, size) if self.side else UNKNOWN

    def select(self, selected: range) -> "CompositeAxis":
        """Return the axis of which only a part was kept: of tokens, all cells must be there."""
        if self.side and selected.step > 0:
            return side(self.side, len(selected))
        end = self.prefix + prod(factor.size for factor in self.factors)
        whole = selected.stop == end and selected.step == 1 and selected.start <= self.prefix
        return self._replace(prefix=self.prefix - selected.start) if whole else UNKNOWN


UNKNOWN, BATCH = CompositeAxis(), CompositeAxis((Factor(N, 1),))


def side(of: str, size: int | None) -> CompositeAxis:
    """Return the axis that is a whole side of a map, `y` or `x`; unknown where it has one cell or a symbolic size."""
    return CompositeAxis((Factor(of, size, 1, size),)) if size and size > 1 else UNKNOWN


def reshape(before: Shape, after: Shape, axes: Sequence[CompositeAxis]) -> tuple[CompositeAxis, ...]:
    """Return the axes after a reshape; all unknown where it does not move whole factors or parts of them.

    At most one size is symbolic, that of the batch, which may have been multiplied.
    """
    unknown = (UNKNOWN,) * len(after)
    if before.count(None) != after.count(None) or before.count(None) > 1:
        return unknown
    factors = [factor for axis, size in zip(axes, before, strict=True) for factor in _factors(axis, size)]
    batch, rest = divmod(prod(factor.size for factor in factors), _elements(after) or 1)
    if any(axis.prefix for axis in axes):
        return _unchanged(before, after, axes)
    if rest:
        return unknown
    result: list[CompositeAxis] = []
    for size in after:
        taken = _take(factors, batch if size is None else size, is_batch=size is None)
        if taken is None:
            return (*result, *unknown[len(result) :])
        result.append(CompositeAxis(tuple(_joined(taken))))
    return tuple(axis if axis.holds_cells or axis.holds_batch else UNKNOWN for axis in result)


def kept_position(before: Shape, after: Shape, position: int) -> int | None:
    """Return where a reshape leaves an axis: the axes before it, or those after it, are the same in both shapes."""
    if before[: position + 1] == after[: position + 1]:
        return position
    from_end = len(before) - position
    return len(after) - from_end if before[-from_end:] == after[-from_end:] else None


def _unchanged(before: Shape, after: Shape, axes: Sequence[CompositeAxis]) -> tuple[CompositeAxis, ...]:
    """Return the axes where tokens follow others: they cannot be split, so only axes that stay whole are known."""
    result = [UNKNOWN] * len(after)
    for position, axis in enumerate(axes):
        kept = kept_position(before, after, position)
        if kept is not None:
            result[kept] = _multiplied(axis, before, after) if axis.holds_batch else axis
    return tuple(result)


def _multiplied(batch: CompositeAxis, before: Shape, after: Shape) -> CompositeAxis:
    """Return the batch axis after a reshape that moved other axes into it, or out of it."""
    added, rest = divmod(prod(factor.size for factor in batch.factors) * _elements(before), _elements(after) or 1)
    return BATCH if (added, rest) == (1, 0) else CompositeAxis((*BATCH.factors, Factor(OTHER, added)))


def _elements(shape: Shape) -> int:
    """Return the number of elements per image."""
    return prod(size for size in shape if size is not None)


def _factors(axis: CompositeAxis, size: int | None) -> Iterable[Factor]:
    """Return the factors of an axis; one of no axis of the image where they are unknown."""
    if axis.factors:
        return axis.factors
    if size is None:
        return BATCH.factors
    return [Factor(OTHER, size)] if size > 1 else []


def _take(factors: list[Factor], size: int, is_batch: bool) -> list[Factor] | None:
    """Remove the first factors whose product is a size, and return them; None where a factor cannot be split so."""
    taken: list[Factor] = []
    while size > 1 or (is_batch and not CompositeAxis(tuple(taken)).holds_batch):
        if not factors:
            return None
        factor = factors.pop(0)
        if size % factor.size == 0:
            size //= factor.size
        elif factor.size % size == 0:
            inner = factor.size // size
            factors.insert(0, factor._replace(size=inner))
            factor = factor._replace(size=size, step=factor.step * inner if factor.total else 1)
            size = 1
        else:
            return None
        if factor.of == N and not is_batch:
            return None
        taken.append(factor)
    return taken


def _joined(factors: Iterable[Factor]) -> Iterator[Factor]:
    """Yield the factors, of which those that follow each other in one axis of the image become one."""
    last: Factor | None = None
    for factor in factors:
        if last and last.of == factor.of == OTHER:
            last = Factor(OTHER, last.size * factor.size)
        elif last and last.of == factor.of and last.total == factor.total and last.step == factor.size * factor.step:
            last = factor._replace(size=last.size * factor.size)
        else:
            if last:
                yield last
            last = factor
    if last:
        yield last
