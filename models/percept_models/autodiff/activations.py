"""Rules of activation functions."""

import numpy as np

from percept_models.autodiff.context import Context, Cotangents


def relu(c: Context, g: str) -> Cotangents:
    """`y = max(x, 0)`: dx = g * [y > 0], and [y > 0] = sign(y)."""
    return [c.op.Mul(g, c.op.Sign(c.y))]


def _piecewise(c: Context, g: str, above: str, below: str) -> Cotangents:
    """dx = g * (above where x > 0, else below), the slopes on both sides of 0."""
    return [c.op.Mul(g, c.op.Where(c.op.Greater(c.x(), c.constant(0)), above, below))]


def leaky_relu(c: Context, g: str) -> Cotangents:
    """`y = x where x > 0, else a * x`: dx = g * (1 where x > 0, else a)."""
    return _piecewise(c, g, c.constant(1), c.constant(c.attribute("alpha", 0.01)))


def prelu(c: Context, g: str) -> Cotangents:
    """`y = x where x > 0, else a * x, a constant`: dx = g * (1 where x > 0, else a)."""
    c.grad_only_for(0)
    return _piecewise(c, g, c.constant(1), c.x(1))


def elu(c: Context, g: str) -> Cotangents:
    """`y = x where x > 0, else a * (e^x - 1)`: dx = g * (1 where x > 0, else y + a)."""
    return _piecewise(c, g, c.constant(1), c.op.Add(c.y, c.constant(c.attribute("alpha", 1.0))))


def celu(c: Context, g: str) -> Cotangents:
    """`y = x where x > 0, else a * (e^(x / a) - 1)`: dx = g * (1 where x > 0, else y / a + 1)."""
    return _piecewise(
        c, g, c.constant(1), c.op.Add(c.op.Mul(c.y, c.constant(1 / c.attribute("alpha", 1.0))), c.constant(1))
    )


def selu(c: Context, g: str) -> Cotangents:
    """`y = s * x where x > 0, else s * a * (e^x - 1)`: dx = g * (s where x > 0, else y + s * a)."""
    a, s = c.attribute("alpha", 1.6732632423543772), c.attribute("gamma", 1.0507009873554805)
    return _piecewise(c, g, c.constant(s), c.op.Add(c.y, c.constant(s * a)))


def thresholded_relu(c: Context, g: str) -> Cotangents:
    """`y = x where x > a, else 0`: dx = g * [x > a]."""
    above = c.op.Greater(c.x(), c.constant(c.attribute("alpha", 1.0)))
    return [c.op.Where(above, g, c.constant(0))]


def shrink(c: Context, g: str) -> Cotangents:
    """`y = x + b where x < -a, x - b where x > a, else 0`: dx = g * [|x| > a]."""
    outside = c.op.Greater(c.op.Abs(c.x()), c.constant(c.attribute("lambd", 0.5)))
    return [c.op.Where(outside, g, c.constant(0))]


def softplus(c: Context, g: str) -> Cotangents:
    """`y = ln(1 + e^x)`: dx = g / (1 + e^-x)."""
    return [c.op.Mul(g, c.op.Sigmoid(c.x()))]


def softsign(c: Context, g: str) -> Cotangents:
    """`y = x / (1 + |x|)`: dx = g / (1 + |x|)^2."""
    denominator = c.op.Add(c.op.Abs(c.x()), c.constant(1))
    return [c.op.Div(g, c.op.Mul(denominator, denominator))]


def clip(c: Context, g: str) -> Cotangents:
    """`y = min(max(x, low), high)`: dx = g * [low < x < high], so 0 at the bounds themselves."""
    c.grad_only_for(0)
    for bound in filter(None, (c.x(1), c.x(2))):
        g = c.op.Mul(g, c.op.Abs(c.op.Sign(c.op.Sub(c.y, bound))))
    return [g]


def sigmoid(c: Context, g: str) -> Cotangents:
    """`y = 1 / (1 + e^-x)`: dx = g * y * (1 - y)."""
    return [c.op.Mul(g, c.op.Mul(c.y, c.op.Sub(c.constant(1), c.y)))]


def tanh(c: Context, g: str) -> Cotangents:
    """`y = tanh x`: dx = g * (1 - y^2)."""
    return [c.op.Mul(g, c.op.Sub(c.constant(1), c.op.Mul(c.y, c.y)))]


def _inside_ramp(c: Context, alpha: float, beta: float) -> str:
    """[0 < alpha * x + beta < 1], as 0 or 1."""
    u = c.op.Add(c.op.Mul(c.x(), c.constant(alpha)), c.constant(beta))
    return c.op.Sign(c.op.Relu(c.op.Mul(u, c.op.Sub(c.constant(1), u))))


def hard_sigmoid(c: Context, g: str) -> Cotangents:
    """`y = min(max(a * x + b, 0), 1)`: dx = g * a * [0 < a * x + b < 1]."""
    a, b = c.attribute("alpha", 0.2), c.attribute("beta", 0.5)
    return [c.op.Mul(g, c.op.Mul(_inside_ramp(c, a, b), c.constant(a)))]


def hard_swish(c: Context, g: str) -> Cotangents:
    """`y = x * h, h = min(max(x / 6 + 1/2, 0), 1)`: dx = g * (h + x / 6 * [0 < x / 6 + 1/2 < 1])."""
    h = c.op.HardSigmoid(c.x(), alpha=1 / 6, beta=0.5)
    slope = c.op.Mul(c.op.Mul(c.x(), c.constant(1 / 6)), _inside_ramp(c, 1 / 6, 0.5))
    return [c.op.Mul(g, c.op.Add(h, slope))]


def mish(c: Context, g: str) -> Cotangents:
    """`y = x * t, t = tanh(ln(1 + e^x))`: dx = g * (t + x * (1 - t^2) / (1 + e^-x))."""
    t = c.op.Tanh(c.op.Softplus(c.x()))
    rest = c.op.Sub(c.constant(1), c.op.Mul(t, t))
    return [c.op.Mul(g, c.op.Add(t, c.op.Mul(c.op.Mul(c.x(), rest), c.op.Sigmoid(c.x()))))]


def gelu(c: Context, g: str) -> Cotangents:
    """`y = x * P(x)`, P the standard normal distribution function: dx = g * (P + x * p), p = P'.

    P = (1 + erf(x / sqrt(2))) / 2, or approximately (1 + tanh u) / 2, u = sqrt(2 / pi) * (x + 0.044715 * x^3).
    """
    x, half = c.x(), c.constant(0.5)
    square = c.op.Mul(x, x)
    if c.attribute("approximate", "none") == "none":
        curve = c.op.Erf(c.op.Mul(x, c.constant(np.sqrt(0.5))))
        p = c.op.Mul(c.op.Exp(c.op.Mul(square, c.constant(-0.5))), c.constant(np.sqrt(0.5 / np.pi)))
    else:
        a = np.sqrt(2 / np.pi)
        u = c.op.Mul(x, c.op.Add(c.op.Mul(square, c.constant(0.044715 * a)), c.constant(a)))
        curve = c.op.Tanh(u)
        slope = c.op.Add(c.op.Mul(square, c.constant(3 * 0.044715 * a)), c.constant(a))
        p = c.op.Mul(half, c.op.Mul(c.op.Sub(c.constant(1), c.op.Mul(curve, curve)), slope))
    cdf = c.op.Mul(half, c.op.Add(c.constant(1), curve))
    return [c.op.Mul(g, c.op.Add(cdf, c.op.Mul(x, p)))]


def softmax(c: Context, g: str) -> Cotangents:
    """`y_i = e^x_i / sum_j e^x_j along an axis`: dx = y * (g - sum(g * y))."""
    axis = c.ints(c.attribute("axis", -1))
    total = c.op.ReduceSum(c.op.Mul(g, c.y), axis, keepdims=1)
    return [c.op.Mul(c.y, c.op.Sub(g, total))]


def log_softmax(c: Context, g: str) -> Cotangents:
    """`y = x - ln sum_j e^x_j along an axis`: dx = g - e^y * sum(g)."""
    total = c.op.ReduceSum(g, c.ints(c.attribute("axis", -1)), keepdims=1)
    return [c.op.Sub(g, c.op.Mul(c.op.Exp(c.y), total))]
