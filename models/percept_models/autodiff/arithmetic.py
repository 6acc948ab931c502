"""Rules of elementwise arithmetic, of the identity, and of operators without a derivative."""

import numpy as np
from onnx import helper

from percept_models.autodiff.context import Context, Cotangents, unbroadcast


def zero(c: Context, *g: str) -> Cotangents:
    """`y` is piecewise constant, or depends on the shape of x alone: dx = 0."""
    return [None] * len(c.node.input)


def identity(c: Context, g: str) -> Cotangents:
    """`y = x`: dx = g."""
    return [g]


def dropout(c: Context, g: str, *mask: str) -> Cotangents:
    """`y = x at inference`: dx = g."""
    return [g]


def cast(c: Context, g: str) -> Cotangents:
    """`y = x in another type`: dx = g in the type of x, none where that is an integer type."""
    if not np.issubdtype(c.graph.dtype(c.x()), np.floating):
        return [None]
    return [c.op.Cast(g, to=helper.np_dtype_to_tensor_dtype(c.graph.dtype(c.x())))]


def add(c: Context, g: str) -> Cotangents:
    """`y = a + b`: da = g, db = g."""
    return [unbroadcast(c, g, c.x(0)), unbroadcast(c, g, c.x(1))]


def sub(c: Context, g: str) -> Cotangents:
    """`y = a - b`: da = g, db = -g."""
    return [unbroadcast(c, g, c.x(0)), unbroadcast(c, c.op.Neg(g), c.x(1))]


def mul(c: Context, g: str) -> Cotangents:
    """`y = a * b`: da = g * b, db = g * a."""
    a, b = c.x(0), c.x(1)
    return [unbroadcast(c, c.op.Mul(g, b), a), unbroadcast(c, c.op.Mul(g, a), b)]


def div(c: Context, g: str) -> Cotangents:
    """`y = a / b`: da = g / b, db = -g * y / b."""
    a, b = c.x(0), c.x(1)
    da = c.op.Div(g, b)
    return [unbroadcast(c, da, a), unbroadcast(c, c.op.Neg(c.op.Mul(da, c.y)), b)]


def mod(c: Context, g: str) -> Cotangents:
    """`y = a - n * b, n an integer`: da = g. Only a may depend on the layer."""
    c.grad_only_for(0)
    return [unbroadcast(c, g, c.x(0))]


def neg(c: Context, g: str) -> Cotangents:
    """`y = -x`: dx = -g."""
    return [c.op.Neg(g)]


def abs_(c: Context, g: str) -> Cotangents:
    """`y = |x|`: dx = g * sign(x)."""
    return [c.op.Mul(g, c.op.Sign(c.x()))]


def reciprocal(c: Context, g: str) -> Cotangents:
    """`y = 1 / x`: dx = -g * y^2."""
    return [c.op.Neg(c.op.Mul(g, c.op.Mul(c.y, c.y)))]


def pow_(c: Context, g: str) -> Cotangents:
    """`y = x^p, p constant`: dx = g * p * x^(p-1)."""
    c.grad_only_for(0)
    p = c.value(1).astype(c.graph.dtype(c.x()))
    slope = c.op.Mul(c.op.Pow(c.x(), c.constant(p - 1)), c.constant(p))
    return [unbroadcast(c, c.op.Mul(g, slope), c.x())]


def exp(c: Context, g: str) -> Cotangents:
    """`y = e^x`: dx = g * y."""
    return [c.op.Mul(g, c.y)]


def log(c: Context, g: str) -> Cotangents:
    """`y = ln x`: dx = g / x."""
    return [c.op.Div(g, c.x())]


def sqrt(c: Context, g: str) -> Cotangents:
    """`y = x^(1/2)`: dx = g / 2y."""
    return [c.op.Div(g, c.op.Add(c.y, c.y))]


def erf(c: Context, g: str) -> Cotangents:
    """`y = erf x`: dx = g * 2 / sqrt(pi) * e^(-x^2)."""
    gaussian = c.op.Exp(c.op.Neg(c.op.Mul(c.x(), c.x())))
    return [c.op.Mul(g, c.op.Mul(gaussian, c.constant(2 / np.sqrt(np.pi))))]


def max_inputs(c: Context, g: str) -> Cotangents:
    """`y = max or min of the inputs x_i`: dx_i = g * [x_i = y] / n, n the number of inputs that are equal to y."""
    dtype = helper.np_dtype_to_tensor_dtype(c.graph.dtype(c.x()))
    chosen = [c.op.Cast(c.op.Equal(x, c.y), to=dtype) for x in c.node.input]
    share = c.op.Div(g, c.op.Sum(*chosen))
    return [unbroadcast(c, c.op.Mul(share, one), x) for one, x in zip(chosen, c.node.input, strict=True)]


def sum_inputs(c: Context, g: str) -> Cotangents:
    """`y = sum of the inputs x_i`: dx_i = g."""
    return [unbroadcast(c, g, x) for x in c.node.input]


def mean_inputs(c: Context, g: str) -> Cotangents:
    """`y = mean of n inputs x_i`: dx_i = g / n."""
    return sum_inputs(c, c.op.Mul(g, c.constant(1 / len(c.node.input))))


def where(c: Context, g: str) -> Cotangents:
    """`y = a where p holds, else b`: da = g * [p], db = g * [not p]."""
    p, a, b = c.node.input
    nothing = c.constant(0, like=a)
    return [None, unbroadcast(c, c.op.Where(p, g, nothing), a), unbroadcast(c, c.op.Where(p, nothing, g), b)]
