"""Rules of operators that select elements of a tensor or replace them."""

import numpy as np

from percept_models.autodiff.context import Context, Cotangents, zeros_like


def slices(c: Context, g: str) -> Cotangents:
    """`y = x[start:end:step] along some axes`: dx = g with zeros around it, and between its cells for longer steps."""
    c.grad_only_for(0)
    starts, rank = c.integers(1, "starts") or [], len(c.shape(c.x()))
    axes = [a % rank for a in c.integers(3, "axes") or range(len(starts))]
    steps = c.integers(4, "steps") or [1] * len(axes)
    before, after, sizes = [0] * rank, [0] * rank, list(c.shape(c.y))
    for axis, start, step in zip(axes, starts, steps, strict=True):
        if axis == 0 and sizes[axis] is None:
            raise c.unsupported("it selects images of the batch")
        whole, part = c.sizes(c.x(), [axis])[0], c.sizes(c.y, [axis])[0]
        first = min(max(start + whole if start < 0 else start, 0), whole - (step < 0))
        if step < 0:
            g = c.op.Slice(g, c.ints(-1), c.ints(np.iinfo(np.int64).min), c.ints(axis), c.ints(-1))
            first += (part - 1) * step
        if abs(step) > 1:
            g = _insert_zeros(c, g, axis, abs(step), sizes)
        before[axis], after[axis] = first, whole - first - (sizes[axis] or 0)
    return [c.op.Pad(g, c.ints(*before, *after))]


def _insert_zeros(c: Context, g: str, axis: int, step: int, sizes: list[int | None]) -> str:
    """Insert step - 1 zeros between neighbouring cells of g along an axis, and update its `sizes` in place."""
    n = (sizes[axis] or 0) * step
    pads_end = [0] * (len(sizes) + 1)
    pads_end[axis + 1] = step - 1
    padded = c.op.Pad(c.op.Unsqueeze(g, c.ints(axis + 1)), c.ints(*[0] * len(pads_end), *pads_end))
    merged = c.op.Reshape(padded, c.ints(*[0] * axis, n, *sizes[axis + 1 :]))
    sizes[axis] = n - step + 1
    return c.op.Slice(merged, c.ints(0), c.ints(n - step + 1), c.ints(axis))


def gather(c: Context, g: str) -> Cotangents:
    """`y = x[..., i, ...], i indices along an axis`: dx = zeros with g added at i."""
    c.grad_only_for(0)
    rank, index_rank = len(c.shape(c.x())), len(c.shape(c.x(1)))
    axis = c.attribute("axis", 0) % rank
    others = [a for a in range(rank) if a != axis]
    moved = [a + (index_rank - 1) * (a > axis) for a in others]
    zeros, g = zeros_like(c, c.x()), c.op.Transpose(g, perm=[*range(axis, axis + index_rank), *moved])
    zeros = c.op.Transpose(zeros, perm=[axis, *others])
    dx = c.op.ScatterND(zeros, c.op.Unsqueeze(c.x(1), c.ints(-1)), g, reduction="add")
    return [c.op.Transpose(dx, perm=[int(i) for i in np.argsort([axis, *others])])]


def gather_nd(c: Context, g: str) -> Cotangents:
    """`y = x[i], i tuples of indices`: dx = zeros with g added at i."""
    c.grad_only_for(0)
    if c.attribute("batch_dims", 0):
        raise c.unsupported("its indices differ from image to image")
    return [c.op.ScatterND(zeros_like(c, c.x()), c.x(1), g, reduction="add")]


def gather_elements(c: Context, g: str) -> Cotangents:
    """`y = x[i] along an axis, an index i for every element of y`: dx = zeros with g added at i."""
    c.grad_only_for(0)
    axis = c.attribute("axis", 0)
    return [c.op.ScatterElements(zeros_like(c, c.x()), c.x(1), g, axis=axis, reduction="add")]


def scatter_elements(c: Context, g: str) -> Cotangents:
    """`y = x with u at the indices i along an axis, or u added there`: dx = g, 0 where it was replaced; du = g[i]."""
    axis = c.attribute("axis", 0)
    kept = g
    if not _adds(c):
        kept = c.op.ScatterElements(g, c.x(1), zeros_like(c, c.x(2)), axis=axis)
    return [kept, None, c.op.GatherElements(g, c.x(1), axis=axis)]


def scatter_nd(c: Context, g: str) -> Cotangents:
    """`y = x with u at the tuples of indices i, or u added there`: dx = g, 0 where it was replaced; du = g[i]."""
    kept = g if _adds(c) else c.op.ScatterND(g, c.x(1), zeros_like(c, c.x(2)))
    return [kept, None, c.op.GatherND(g, c.x(1))]


def _adds(c: Context) -> bool:
    """Return whether a scatter adds its updates instead of replacing elements by them."""
    reduction = c.attribute("reduction", "none")
    if reduction not in ("none", "add"):
        raise c.unsupported(f"its reduction is {reduction}")
    return bool(reduction == "add")


def top_k(c: Context, g: str | None, *_: str | None) -> Cotangents:
    """`y = the k greatest or least cells of x along an axis`: dx = zeros with g at the indices of these cells."""
    if g is None:
        return [None]
    axis = c.attribute("axis", -1)
    return [c.op.ScatterElements(zeros_like(c, c.x()), c.node.output[1], g, axis=axis, reduction="add")]


def max_unpool(c: Context, g: str) -> Cotangents:
    """`y = zeros with x at the indices i into all of y`: dx = g[i]."""
    return [c.op.Gather(c.op.Reshape(g, c.ints(-1)), c.x(1))]


def trilu(c: Context, g: str) -> Cotangents:
    """`y = the upper or lower triangle of x, 0 elsewhere`: dx = that triangle of g."""
    diagonal = [c.x(1)] if c.x(1) else []
    return [c.op.Trilu(g, *diagonal, upper=c.attribute("upper", 1))]
