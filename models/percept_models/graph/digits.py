"""An axis of a tensor in terms of an image's own axes, and what a reshape does to it.

As a number has digits, the position in an axis has a digit for each axis of the image, or for a part of one: rows of 56
in windows of 7 are a digit of 8 windows, whose step is 7 rows, and one of 7 rows. A reshape moves whole digits, or
splits one.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import NamedTuple

from percept_models.graph.reader import Shape

N, OTHER = "n", ""


class Digit(NamedTuple):
    """A part of the image's axis `of`: n, y, x, or none of them; a step of it is `step` of the axis's `total` cells."""

    of: str
    size: int
    step: int = 1
    total: int = 0

    @property
    def is_outermost(self) -> bool:
        """Whether the digit spans its axis of the image."""
        return self.size * self.step == self.total


class Axis(NamedTuple):
    """The digits of an axis, the first with the greatest step; the cells come after `prefix` other tokens."""

    digits: tuple[Digit, ...] = ()
    prefix: int = 0

    @property
    def holds_cells(self) -> bool:
        """Whether the axis holds a part of the height or the width."""
        return any(digit.of in ("y", "x") for digit in self.digits)

    @property
    def holds_batch(self) -> bool:
        """Whether the axis is the batch, or holds it with others."""
        return any(digit.of == N for digit in self.digits)

    @property
    def side(self) -> str | None:
        """`y` or `x`, where the axis is that side of a map."""
        digit = self.digits[0] if len(self.digits) == 1 else Digit(OTHER, 1)
        return digit.of if digit.of in ("y", "x") and digit.is_outermost and not self.prefix else None

    @property
    def grid(self) -> tuple[int, int] | None:
        """The height and width of a map whose cells are the axis row by row: tokens."""
        match self.digits:
            case (Digit("y") as y, Digit("x") as x) if y.is_outermost and x.is_outermost:
                return y.size, x.size
        return None

    @property
    def pattern(self) -> tuple[object, ...]:
        """What two axes have in common whose cells lie in the same places."""
        return (self.prefix, *((digit.of, digit.size) for digit in self.digits))

    def resized(self, size: int | None) -> "Axis":
        """Return the axis after an operator that may have changed its size, such as pooling: only a side stays one."""
        if self.prefix + prod(digit.size for digit in self.digits) == size or (size is None and self.holds_batch):
            return self
        return side(self.side, size) if self.side else UNKNOWN

    def select(self, selected: range) -> "Axis":
        """Return the axis of which only a part was kept: of tokens, all cells must be there."""
        if self.side and selected.step > 0:
            return side(self.side, len(selected))
        end = self.prefix + prod(digit.size for digit in self.digits)
        whole = selected.stop == end and selected.step == 1 and selected.start <= self.prefix
        return self._replace(prefix=self.prefix - selected.start) if whole else UNKNOWN


UNKNOWN, BATCH = Axis(), Axis((Digit(N, 1),))


def side(of: str, size: int | None) -> Axis:
    """Return a whole side of a map."""
    return Axis((Digit(of, size, 1, size),)) if size and size > 1 else UNKNOWN


def reshape(before: Shape, after: Shape, axes: Sequence[Axis]) -> tuple[Axis, ...]:
    """Return the axes after a reshape; all unknown where it does not move whole digits or parts of them.

    At most one size is symbolic, that of the batch, which may have been multiplied.
    """
    unknown = (UNKNOWN,) * len(after)
    if before.count(None) != after.count(None) or before.count(None) > 1:
        return unknown
    digits = [digit for axis, size in zip(axes, before, strict=True) for digit in _digits(axis, size)]
    factor, rest = divmod(prod(digit.size for digit in digits), _elements(after) or 1)
    if any(axis.prefix for axis in axes):
        return _unchanged(before, after, axes)
    if rest:
        return unknown
    result: list[Axis] = []
    for size in after:
        taken = _take(digits, factor if size is None else size, batch=size is None)
        if taken is None:
            return (*result, *unknown[len(result) :])
        result.append(Axis(tuple(_joined(taken))))
    return tuple(axis if axis.holds_cells or axis.holds_batch else UNKNOWN for axis in result)


def kept_position(before: Shape, after: Shape, position: int) -> int | None:
    """Return where a reshape leaves an axis: the axes before it, or those after it, are the same in both shapes."""
    if before[: position + 1] == after[: position + 1]:
        return position
    from_end = len(before) - position
    return len(after) - from_end if before[-from_end:] == after[-from_end:] else None


def _unchanged(before: Shape, after: Shape, axes: Sequence[Axis]) -> tuple[Axis, ...]:
    """Return the axes where tokens follow others: they cannot be split, so only axes that stay whole are known."""
    result = [UNKNOWN] * len(after)
    for position, axis in enumerate(axes):
        kept = kept_position(before, after, position)
        if kept is not None:
            result[kept] = _multiplied(axis, before, after) if axis.holds_batch else axis
    return tuple(result)


def _multiplied(batch: Axis, before: Shape, after: Shape) -> Axis:
    """Return the batch axis after a reshape that moved other axes into it, or out of it."""
    factor, rest = divmod(prod(digit.size for digit in batch.digits) * _elements(before), _elements(after) or 1)
    return BATCH if (factor, rest) == (1, 0) else Axis((*BATCH.digits, Digit(OTHER, factor)))


def _elements(shape: Shape) -> int:
    """Return the number of elements per image."""
    return prod(size for size in shape if size is not None)


def _digits(axis: Axis, size: int | None) -> Iterable[Digit]:
    """Return the digits of an axis; one of no axis of the image where they are unknown."""
    if axis.digits:
        return axis.digits
    if size is None:
        return BATCH.digits
    return [Digit(OTHER, size)] if size > 1 else []


def _take(digits: list[Digit], size: int, batch: bool) -> list[Digit] | None:
    """Remove the first digits whose product is a size, and return them; None where a digit cannot be split so."""
    taken: list[Digit] = []
    while size > 1 or (batch and not Axis(tuple(taken)).holds_batch):
        if not digits:
            return None
        digit = digits.pop(0)
        if size % digit.size == 0:
            size //= digit.size
        elif digit.size % size == 0:
            inner = digit.size // size
            digits.insert(0, digit._replace(size=inner))
            digit = digit._replace(size=size, step=digit.step * inner if digit.total else 1)
            size = 1
        else:
            return None
        if digit.of == N and not batch:
            return None
        taken.append(digit)
    return taken


def _joined(digits: Iterable[Digit]) -> Iterator[Digit]:
    """Yield the digits, of which those that follow each other in one axis of the image become one."""
    last: Digit | None = None
    for digit in digits:
        if last and last.of == digit.of == OTHER:
            last = Digit(OTHER, last.size * digit.size)
        elif last and last.of == digit.of and last.total == digit.total and last.step == digit.size * digit.step:
            last = digit._replace(size=last.size * digit.size)
        else:
            if last:
                yield last
            last = digit
    if last:
        yield last
