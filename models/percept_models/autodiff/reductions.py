"""Rules of reductions, cumulative sums and global pooling."""

import numpy as np
from onnx import helper

from percept_models.autodiff.context import Context, Cotangents


def _reduced_axes(c: Context) -> list[int]:
    """Return the axes that the node reduces, counted from the front."""
    rank = len(c.shape(c.x()))
    axes = c.integers(1, "axes")
    if not axes and c.attribute("noop_with_empty_axes", 0):
        return []
    return sorted(axis % rank for axis in axes or range(rank))


def _repeat(c: Context, g: str, axes: list[int]) -> str:
    """Repeat g along the axes that were reduced, to the shape of x."""
    if not c.attribute("keepdims", 1):
        g = c.op.Unsqueeze(g, c.ints(*axes))
    shape = c.shape(c.x())
    if any(shape[axis] is None for axis in axes):
        return c.op.Expand(g, c.op.Shape(c.x()))
    return c.op.Expand(g, c.ints(*(shape[a] if a in axes else 1 for a in range(len(shape)))))


def reduce_sum(c: Context, g: str) -> Cotangents:
    """`y = sum of x over some axes`: dx = g repeated."""
    return [_repeat(c, g, _reduced_axes(c))]


def reduce_mean(c: Context, g: str) -> Cotangents:
    """`y = mean of x over n cells`: dx = g / n repeated."""
    axes = _reduced_axes(c)
    n = float(np.prod(c.sizes(c.x(), axes)))
    return [_repeat(c, c.op.Mul(g, c.constant(1 / n)), axes)]


def reduce_l2(c: Context, g: str) -> Cotangents:
    """`y = sqrt(sum of x^2 over some axes)`: dx = g * x / y, 0 where y = 0."""
    share = c.op.Where(c.op.Equal(c.y, c.constant(0)), c.constant(0), c.op.Div(g, c.y))
    return [c.op.Mul(_repeat(c, share, _reduced_axes(c)), c.x())]


def reduce_l1(c: Context, g: str) -> Cotangents:
    """`y = sum of |x| over some axes`: dx = g * sign(x)."""
    return [c.op.Mul(_repeat(c, g, _reduced_axes(c)), c.op.Sign(c.x()))]


def reduce_sum_square(c: Context, g: str) -> Cotangents:
    """`y = sum of x^2 over some axes`: dx = 2 g * x."""
    return [c.op.Mul(_repeat(c, c.op.Mul(g, c.constant(2)), _reduced_axes(c)), c.x())]


def reduce_log_sum(c: Context, g: str) -> Cotangents:
    """`y = ln of the sum of x over some axes`: dx = g * e^-y."""
    return [_repeat(c, c.op.Mul(g, c.op.Exp(c.op.Neg(c.y))), _reduced_axes(c))]


def reduce_log_sum_exp(c: Context, g: str) -> Cotangents:
    """`y = ln of the sum of e^x over some axes`: dx = g * e^(x - y)."""
    axes = _reduced_axes(c)
    return [c.op.Mul(_repeat(c, g, axes), c.op.Exp(c.op.Sub(c.x(), _repeat(c, c.y, axes))))]


def lp_normalization(c: Context, g: str) -> Cotangents:
    """`y = x / r, r the sum of |x| (p = 1) or sqrt(sum of x^2) (p = 2) along an axis`:

    dx = (g - u * sum(g * y)) / r, u = sign(x) for p = 1 and y for p = 2.
    """
    axis, p = c.ints(c.attribute("axis", -1)), c.attribute("p", 2)
    r = c.op.ReduceL2(c.x(), axis, keepdims=1) if p == 2 else c.op.ReduceL1(c.x(), axis, keepdims=1)
    u = c.y if p == 2 else c.op.Sign(c.x())
    shared = c.op.ReduceSum(c.op.Mul(g, c.y), axis, keepdims=1)
    return [c.op.Div(c.op.Sub(g, c.op.Mul(u, shared)), r)]


def cum_sum(c: Context, g: str) -> Cotangents:
    """`y_i = sum of x_j over j <= i along an axis, over j >= i if reverse, without j = i if exclusive`:

    dx = the same sum of g in the other direction.
    """
    return [c.op.CumSum(g, c.x(1), exclusive=c.attribute("exclusive", 0), reverse=1 - c.attribute("reverse", 0))]


def reduce_max(c: Context, g: str) -> Cotangents:
    """`y = max or min of x over some axes`: dx = g * [x = y] / n, n the number of cells equal to y."""
    return [_max_gradient(c, g, _reduced_axes(c))]


def global_average_pool(c: Context, g: str) -> Cotangents:
    """`y = mean of x over the n cells of a feature map`: dx = g / n repeated."""
    axes = list(range(2, len(c.shape(c.x()))))
    n = float(np.prod(c.sizes(c.x(), axes)))
    return [_repeat(c, c.op.Mul(g, c.constant(1 / n)), axes)]


def global_max_pool(c: Context, g: str) -> Cotangents:
    """`y = max of x over the cells of a feature map`: dx = g * [x = y] / n, n the number of cells equal to y."""
    return [_max_gradient(c, g, list(range(2, len(c.shape(c.x())))))]


def _max_gradient(c: Context, g: str, axes: list[int]) -> str:
    dtype = helper.np_dtype_to_tensor_dtype(c.graph.dtype(c.x()))
    chosen = c.op.Cast(c.op.Equal(c.x(), _repeat(c, c.y, axes)), to=dtype)
    n = c.op.ReduceSum(chosen, c.ints(*axes), keepdims=1)
    return c.op.Mul(_repeat(c, g, axes), c.op.Div(chosen, n))
