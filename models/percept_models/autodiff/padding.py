"""Rules of padding."""

from collections.abc import Iterator

import numpy as np

from percept_models.autodiff.context import Context, Cotangents

END = np.iinfo(np.int64).max


def pad(c: Context, g: str) -> Cotangents:
    """`y = x padded along some axes`: dx = the part of g without the padding, plus the padding where it repeats x.

    A constant repeats nothing, `edge` the first and the last cell of an axis, `reflect` the cells beside these in
    reverse, and `wrap` the cells at the opposite end. Negative padding cuts cells off, whose dx is 0. Axes are padded
    one after the other, so that corners repeat what was repeated.
    """
    c.grad_only_for(0)
    mode = c.attribute("mode", "constant")
    for axis, begin, end in _padded_axes(c):
        if mode == "constant" or max(begin, end) <= 0:
            g = _cut(c, g, axis, max(begin, 0), -max(end, 0) or END)
            g = _surround(c, g, axis, max(-begin, 0), max(-end, 0))
        else:
            g = _fold(c, g, axis, begin, end)
    return [g]


def _padded_axes(c: Context) -> Iterator[tuple[int, int, int]]:
    """Yield each axis with padding, and how many cells are added before and after it."""
    pads, rank = c.integers(1, "pads") or [], len(c.shape(c.x()))
    axes = [a % rank for a in c.integers(3, "axes") or range(rank)]
    mode = c.attribute("mode", "constant")
    for axis, begin, end in zip(axes, pads, pads[len(axes) :], strict=False):
        if mode != "constant" and max(begin, end) > 0:
            (size,) = c.sizes(c.x(), [axis])
            if min(begin, end) < 0 or max(begin, end) > size - (mode == "reflect"):
                raise c.unsupported(f"its padding in the mode {mode} is negative or larger than the input")
        if begin or end:
            yield axis, begin, end


def _cut(c: Context, g: str, axis: int, start: int, end: int, step: int = 1) -> str:
    if (start, end, step) == (0, END, 1):
        return g
    return c.op.Slice(g, c.ints(start), c.ints(end), c.ints(axis), c.ints(step))


def _surround(c: Context, g: str, axis: int, before: int, after: int) -> str:
    """Put zeros before and after g along an axis."""
    if not before and not after:
        return g
    return c.op.Pad(g, c.ints(before, after), "", c.ints(axis))


def _fold(c: Context, g: str, axis: int, begin: int, end: int) -> str:
    """Add the cotangents of the padding along an axis to those of the cells that it repeats."""
    (size,), mode = c.sizes(c.x(), [axis]), c.attribute("mode", "constant")
    total = _cut(c, g, axis, begin, begin + size)
    places = {"edge": (0, size - 1), "reflect": (1, size - 1 - end), "wrap": (size - begin, 0)}[mode]
    for start, stop, place in ((0, begin, places[0]), (begin + size, begin + size + end, places[1])):
        if start < stop:
            part, count = _repeated_cells(c, _cut(c, g, axis, start, stop), axis, stop - start)
            total = c.op.Add(total, _surround(c, part, axis, place, size - place - count))
    return total


def _repeated_cells(c: Context, part: str, axis: int, count: int) -> tuple[str, int]:
    """Return the cotangents of the cells that one side of the padding repeats, in their order, and their number."""
    mode = c.attribute("mode", "constant")
    if mode == "edge":
        return c.op.ReduceSum(part, c.ints(axis), keepdims=1), 1
    return (_cut(c, part, axis, -1, -END, -1) if mode == "reflect" else part), count
