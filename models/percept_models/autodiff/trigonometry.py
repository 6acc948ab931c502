"""Rules of trigonometric and hyperbolic functions."""

from percept_models.autodiff.context import Context, Cotangents


def _square(c: Context, x: str) -> str:
    return c.op.Mul(x, x)


def _root(c: Context, a: float, sign: float) -> str:
    """sqrt(a + sign * x^2)."""
    return c.op.Sqrt(c.op.Add(c.op.Mul(_square(c, c.x()), c.constant(sign)), c.constant(a)))


def sin(c: Context, g: str) -> Cotangents:
    """`y = sin x`: dx = g * cos x."""
    return [c.op.Mul(g, c.op.Cos(c.x()))]


def cos(c: Context, g: str) -> Cotangents:
    """`y = cos x`: dx = -g * sin x."""
    return [c.op.Neg(c.op.Mul(g, c.op.Sin(c.x())))]


def tan(c: Context, g: str) -> Cotangents:
    """`y = tan x`: dx = g * (1 + y^2)."""
    return [c.op.Mul(g, c.op.Add(_square(c, c.y), c.constant(1)))]


def asin(c: Context, g: str) -> Cotangents:
    """`y = arcsin x`: dx = g / sqrt(1 - x^2)."""
    return [c.op.Div(g, _root(c, 1, -1))]


def acos(c: Context, g: str) -> Cotangents:
    """`y = arccos x`: dx = -g / sqrt(1 - x^2)."""
    return [c.op.Neg(c.op.Div(g, _root(c, 1, -1)))]


def atan(c: Context, g: str) -> Cotangents:
    """`y = arctan x`: dx = g / (1 + x^2)."""
    return [c.op.Div(g, c.op.Add(_square(c, c.x()), c.constant(1)))]


def sinh(c: Context, g: str) -> Cotangents:
    """`y = sinh x`: dx = g * cosh x."""
    return [c.op.Mul(g, c.op.Cosh(c.x()))]


def cosh(c: Context, g: str) -> Cotangents:
    """`y = cosh x`: dx = g * sinh x."""
    return [c.op.Mul(g, c.op.Sinh(c.x()))]


def asinh(c: Context, g: str) -> Cotangents:
    """`y = arsinh x`: dx = g / sqrt(x^2 + 1)."""
    return [c.op.Div(g, _root(c, 1, 1))]


def acosh(c: Context, g: str) -> Cotangents:
    """`y = arcosh x`: dx = g / sqrt(x^2 - 1)."""
    return [c.op.Div(g, _root(c, -1, 1))]


def atanh(c: Context, g: str) -> Cotangents:
    """`y = artanh x`: dx = g / (1 - x^2)."""
    return [c.op.Div(g, c.op.Sub(c.constant(1), _square(c, c.x())))]
