"""Rules of operators that rearrange, join, divide or repeat the elements of a tensor."""

from itertools import chain

import numpy as np

from percept_models.autodiff.context import Context, Cotangents, reshape_like, unbroadcast


def reshape(c: Context, g: str) -> Cotangents:
    """`y = the elements of x in another shape`: dx = g in the shape of x."""
    return [reshape_like(c, g, c.x())]


def transpose(c: Context, g: str) -> Cotangents:
    """`y = x with its axes permuted`: dx = g with the inverse permutation."""
    rank = len(c.shape(c.x()))
    permutation = c.attribute("perm", list(reversed(range(rank))))
    return [c.op.Transpose(g, perm=[int(i) for i in np.argsort(permutation)])]


def concat(c: Context, g: str) -> Cotangents:
    """`y = the inputs concatenated along an axis`: each dx is the piece of g in its place."""
    axis = c.attribute("axis", 0)
    sizes = [c.sizes(name, [axis])[0] for name in c.node.input]
    return c.builder.write("Split", (g, c.ints(*sizes)), len(sizes), axis=axis)


def split(c: Context, *g: str | None) -> Cotangents:
    """`y_k = the k-th piece of x along an axis`: dx = all g_k concatenated, zeros where one is missing."""
    c.grad_only_for(0)
    pieces = [piece or c.op.Mul(name, c.constant(0)) for name, piece in zip(c.node.output, g, strict=True)]
    return [c.op.Concat(*pieces, axis=c.attribute("axis", 0))]


def expand(c: Context, g: str) -> Cotangents:
    """`y = x repeated along axes of size 1`: dx = g summed over them."""
    return [unbroadcast(c, g, c.x())]


def tile(c: Context, g: str) -> Cotangents:
    """`y = x repeated r times along each axis`: dx = the sum of the r pieces of g."""
    repeats = [int(r) for r in c.value(1)]
    pieces = chain.from_iterable(zip(repeats, c.shape(c.x()), strict=True))
    parts = c.op.Reshape(g, c.ints(*pieces))
    return [c.op.ReduceSum(parts, c.ints(*range(0, 2 * len(repeats), 2)), keepdims=0)]


def depth_to_space(c: Context, g: str) -> Cotangents:
    """`y = channels laid out as blocks of b x b cells`: dx = the blocks of g as channels."""
    b = c.attribute("blocksize", 1)
    if c.attribute("mode", "DCR") == "DCR":
        return [c.op.SpaceToDepth(g, blocksize=b)]
    channels, height, width = c.sizes(c.x(), [1, 2, 3])
    blocks = c.op.Reshape(g, c.ints(-1, channels // b**2, height, b, width, b))
    return [reshape_like(c, c.op.Transpose(blocks, perm=[0, 1, 3, 5, 2, 4]), c.x())]


def space_to_depth(c: Context, g: str) -> Cotangents:
    """`y = blocks of b x b cells laid out as channels`: dx = the channels of g as blocks."""
    return [c.op.DepthToSpace(g, blocksize=c.attribute("blocksize", 1))]
