"""Rules of operators that select elements of a tensor, or pad it."""

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


def pad(c: Context, g: str) -> Cotangents:
    """`y = x padded with a constant`: dx = the part of g without the padding."""
    c.grad_only_for(0)
    pads = c.integers(1, "pads") or []
    rank = len(c.shape(c.x()))
    axes = [a % rank for a in c.integers(3, "axes") or range(rank)]
    if c.attribute("mode", "constant") != "constant" or min(pads) < 0:
        raise c.unsupported("only padding with a constant has a rule")
    padded = [(a, b, e) for a, b, e in zip(axes, pads, pads[len(axes) :], strict=False) if b or e]
    starts, ends = [b for _, b, _ in padded], [-e or np.iinfo(np.int64).max for _, _, e in padded]
    return [c.op.Slice(g, c.ints(*starts), c.ints(*ends), c.ints(*[a for a, _, _ in padded]))]


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
