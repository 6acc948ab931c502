"""RULES: operator -> reverse-mode rule.

A rule gets the context of a node y = f(x_0, x_1, ...) and the name g of the cotangent of y (one for each output,
None where nothing depends on it); it writes ordinary ONNX operators and returns, for each input, the name of its
cotangent or None. Three verbs: a rule, a declared `zero`, and anything else fails by name (`UnsupportedOperator`).

In the equations x is the input, y the output, g = dL/dy, dx = dL/dx, [p] is 1 where p holds and else 0, and *
between tensors is elementwise. Nothing is transposed at run time that could be read transposed. The rules of
sliding windows are in `windows.py`.
"""

from collections.abc import Callable
from itertools import chain

import numpy as np
from onnx import helper

from percept_models.autodiff.context import Context, Cotangents, mean, reshaped, unbroadcast, zeros_like
from percept_models.autodiff.windows import average_pool, conv, conv_transpose, max_pool, resize

Rule = Callable[..., Cotangents]

# Elementwise


def zero(c: Context, *g: str) -> Cotangents:
    """`y` is constant almost everywhere, or no function of the values: dx = 0."""
    return [None] * len(c.node.input)


def identity(c: Context, g: str) -> Cotangents:
    """`y = x`: dx = g."""
    return [g]


def dropout(c: Context, g: str, *mask: str) -> Cotangents:
    """`y = x at inference`: dx = g."""
    return [g]


def cast(c: Context, g: str) -> Cotangents:
    """`y = x in another type`: dx = g in the type of x, zero where x is of integers."""
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


def power(c: Context, g: str) -> Cotangents:
    """`y = x^p, p constant`: dx = g * p * x^(p-1)."""
    c.only(0)
    p = c.value(1).astype(c.graph.dtype(c.x()))
    slope = c.op.Mul(c.op.Pow(c.x(), c.like(p - 1)), c.like(p))
    return [unbroadcast(c, c.op.Mul(g, slope), c.x())]


def maximum(c: Context, g: str) -> Cotangents:
    """`y = max or min of the inputs x_i`: dx_i = g * [x_i = y] / n, n the number of inputs that are equal to y."""
    kind = helper.np_dtype_to_tensor_dtype(c.graph.dtype(c.x()))
    chosen = [c.op.Cast(c.op.Equal(x, c.y), to=kind) for x in c.node.input]
    share = c.op.Div(g, c.op.Sum(*chosen))
    return [unbroadcast(c, c.op.Mul(share, one), x) for one, x in zip(chosen, c.node.input, strict=True)]


def total(c: Context, g: str) -> Cotangents:
    """`y = sum of the inputs x_i`: dx_i = g."""
    return [unbroadcast(c, g, x) for x in c.node.input]


def average(c: Context, g: str) -> Cotangents:
    """`y = mean of n inputs x_i`: dx_i = g / n."""
    return total(c, c.op.Mul(g, c.like(1 / len(c.node.input))))


def where(c: Context, g: str) -> Cotangents:
    """`y = a where p holds, else b`: da = g * [p], db = g * [not p]."""
    p, a, b = c.node.input
    nothing = c.like(0, a)
    return [None, unbroadcast(c, c.op.Where(p, g, nothing), a), unbroadcast(c, c.op.Where(p, nothing, g), b)]


def neg(c: Context, g: str) -> Cotangents:
    """`y = -x`: dx = -g."""
    return [c.op.Neg(g)]


def absolute(c: Context, g: str) -> Cotangents:
    """`y = |x|`: dx = g * sign(x)."""
    return [c.op.Mul(g, c.op.Sign(c.x()))]


def reciprocal(c: Context, g: str) -> Cotangents:
    """`y = 1 / x`: dx = -g * y^2."""
    return [c.op.Neg(c.op.Mul(g, c.op.Mul(c.y, c.y)))]


def exp(c: Context, g: str) -> Cotangents:
    """`y = e^x`: dx = g * y."""
    return [c.op.Mul(g, c.y)]


def log(c: Context, g: str) -> Cotangents:
    """`y = ln x`: dx = g / x."""
    return [c.op.Div(g, c.x())]


def root(c: Context, g: str) -> Cotangents:
    """`y = sqrt(x)`: dx = g / 2y."""
    return [c.op.Div(g, c.op.Add(c.y, c.y))]


def relu(c: Context, g: str) -> Cotangents:
    """`y = max(x, 0)`: dx = g * [y > 0], and [y > 0] = sign(y)."""
    return [c.op.Mul(g, c.op.Sign(c.y))]


def _bent(c: Context, g: str, above: str, below: str) -> Cotangents:
    """dx = g * (slope above where x > 0, else slope below)."""
    return [c.op.Mul(g, c.op.Where(c.op.Greater(c.x(), c.like(0)), above, below))]


def leaky_relu(c: Context, g: str) -> Cotangents:
    """`y = x where x > 0, else a * x`: dx = g * (1 where x > 0, else a)."""
    return _bent(c, g, c.like(1), c.like(c.attribute("alpha", 0.01)))


def prelu(c: Context, g: str) -> Cotangents:
    """`y = x where x > 0, else a * x, a constant`: dx = g * (1 where x > 0, else a)."""
    c.only(0)
    return _bent(c, g, c.like(1), c.x(1))


def elu(c: Context, g: str) -> Cotangents:
    """`y = x where x > 0, else a * (e^x - 1)`: dx = g * (1 where x > 0, else y + a)."""
    return _bent(c, g, c.like(1), c.op.Add(c.y, c.like(c.attribute("alpha", 1.0))))


def celu(c: Context, g: str) -> Cotangents:
    """`y = x where x > 0, else a * (e^(x / a) - 1)`: dx = g * (1 where x > 0, else y / a + 1)."""
    return _bent(c, g, c.like(1), c.op.Add(c.op.Mul(c.y, c.like(1 / c.attribute("alpha", 1.0))), c.like(1)))


def selu(c: Context, g: str) -> Cotangents:
    """`y = s * x where x > 0, else s * a * (e^x - 1)`: dx = g * (s where x > 0, else y + s * a)."""
    a, s = c.attribute("alpha", 1.6732632423543772), c.attribute("gamma", 1.0507009873554805)
    return _bent(c, g, c.like(s), c.op.Add(c.y, c.like(s * a)))


def softplus(c: Context, g: str) -> Cotangents:
    """`y = ln(1 + e^x)`: dx = g / (1 + e^-x)."""
    return [c.op.Mul(g, c.op.Sigmoid(c.x()))]


def softsign(c: Context, g: str) -> Cotangents:
    """`y = x / (1 + |x|)`: dx = g / (1 + |x|)^2."""
    below = c.op.Add(c.op.Abs(c.x()), c.like(1))
    return [c.op.Div(g, c.op.Mul(below, below))]


def clip(c: Context, g: str) -> Cotangents:
    """`y = min(max(x, low), high)`: dx = g * [low < x < high]; at the ends themselves 0."""
    c.only(0)
    for bound in filter(None, (c.x(1), c.x(2))):
        g = c.op.Mul(g, c.op.Abs(c.op.Sign(c.op.Sub(c.y, bound))))
    return [g]


def sigmoid(c: Context, g: str) -> Cotangents:
    """`y = 1 / (1 + e^-x)`: dx = g * y * (1 - y)."""
    return [c.op.Mul(g, c.op.Mul(c.y, c.op.Sub(c.like(1), c.y)))]


def tanh(c: Context, g: str) -> Cotangents:
    """`y = tanh x`: dx = g * (1 - y^2)."""
    return [c.op.Mul(g, c.op.Sub(c.like(1), c.op.Mul(c.y, c.y)))]


def erf(c: Context, g: str) -> Cotangents:
    """`y = erf x`: dx = g * 2 / sqrt(pi) * e^(-x^2)."""
    bell = c.op.Exp(c.op.Neg(c.op.Mul(c.x(), c.x())))
    return [c.op.Mul(g, c.op.Mul(bell, c.like(2 / np.sqrt(np.pi))))]


def _ramp(c: Context, alpha: float, beta: float) -> str:
    """[0 < alpha * x + beta < 1], as numbers."""
    inner = c.op.Add(c.op.Mul(c.x(), c.like(alpha)), c.like(beta))
    rest = c.op.Relu(c.op.Mul(inner, c.op.Sub(c.like(1), inner)))
    return c.op.Sign(rest)


def hard_sigmoid(c: Context, g: str) -> Cotangents:
    """`y = min(max(a * x + b, 0), 1)`: dx = g * a * [0 < a * x + b < 1]."""
    a, b = c.attribute("alpha", 0.2), c.attribute("beta", 0.5)
    return [c.op.Mul(g, c.op.Mul(_ramp(c, a, b), c.like(a)))]


def hard_swish(c: Context, g: str) -> Cotangents:
    """`y = x * h, h = min(max(x / 6 + 1/2, 0), 1)`: dx = g * (h + x / 6 * [0 < x / 6 + 1/2 < 1])."""
    h = c.op.HardSigmoid(c.x(), alpha=1 / 6, beta=0.5)
    slope = c.op.Mul(c.op.Mul(c.x(), c.like(1 / 6)), _ramp(c, 1 / 6, 0.5))
    return [c.op.Mul(g, c.op.Add(h, slope))]


def mish(c: Context, g: str) -> Cotangents:
    """`y = x * t, t = tanh(ln(1 + e^x))`: dx = g * (t + x * (1 - t^2) / (1 + e^-x))."""
    t = c.op.Tanh(c.op.Softplus(c.x()))
    rest = c.op.Sub(c.like(1), c.op.Mul(t, t))
    return [c.op.Mul(g, c.op.Add(t, c.op.Mul(c.op.Mul(c.x(), rest), c.op.Sigmoid(c.x()))))]


def gelu(c: Context, g: str) -> Cotangents:
    """`y = x * P(x)`, P the normal distribution: dx = g * (P + x * p), p = P'.

    P = (1 + erf(x / sqrt(2))) / 2, or by approximation (1 + tanh u) / 2, u = sqrt(2 / pi) * (x + 0.044715 * x^3).
    """
    x, half = c.x(), c.like(0.5)
    square = c.op.Mul(x, x)
    if c.attribute("approximate", "none") == "none":
        bent = c.op.Erf(c.op.Mul(x, c.like(np.sqrt(0.5))))
        p = c.op.Mul(c.op.Exp(c.op.Mul(square, c.like(-0.5))), c.like(np.sqrt(0.5 / np.pi)))
    else:
        a = np.sqrt(2 / np.pi)
        u = c.op.Mul(x, c.op.Add(c.op.Mul(square, c.like(0.044715 * a)), c.like(a)))
        bent = c.op.Tanh(u)
        slope = c.op.Add(c.op.Mul(square, c.like(3 * 0.044715 * a)), c.like(a))
        p = c.op.Mul(half, c.op.Mul(c.op.Sub(c.like(1), c.op.Mul(bent, bent)), slope))
    whole = c.op.Mul(half, c.op.Add(c.like(1), bent))
    return [c.op.Mul(g, c.op.Add(whole, c.op.Mul(x, p)))]


def softmax(c: Context, g: str) -> Cotangents:
    """`y_i = e^x_i / sum_j e^x_j along an axis`: dx = y * (g - sum(g * y))."""
    axis = c.ints(c.attribute("axis", -1))
    both = c.op.ReduceSum(c.op.Mul(g, c.y), axis, keepdims=1)
    return [c.op.Mul(c.y, c.op.Sub(g, both))]


def log_softmax(c: Context, g: str) -> Cotangents:
    """`y = x - ln sum_j e^x_j along an axis`: dx = g - e^y * sum(g)."""
    both = c.op.ReduceSum(g, c.ints(c.attribute("axis", -1)), keepdims=1)
    return [c.op.Sub(g, c.op.Mul(c.op.Exp(c.y), both))]


def batch_normalization(c: Context, g: str) -> Cotangents:
    """`y = (x - m) / sqrt(v + e) * s + b, all constant`: dx = g * s / sqrt(v + e)."""
    c.only(0)
    scale = c.value(1) / np.sqrt(c.value(4) + c.attribute("epsilon", 1e-5))
    rank = len(c.shape(c.x()))
    return [c.op.Mul(g, c.like(scale.reshape(-1, *[1] * (rank - 2))))]


def _standardized(c: Context, h: str, x: str, axes: list[int], n: int) -> str:
    """`z = (x - m) / sqrt(v + e)`, m the mean and v the variance of n cells, h its cotangent.

    dx = (h - mean(h) - z * mean(h * z)) / sqrt(v + e).
    """
    centred = c.op.Sub(x, mean(c, x, axes, n))
    variance = mean(c, c.op.Mul(centred, centred), axes, n)
    deviation = c.op.Sqrt(c.op.Add(variance, c.like(c.attribute("epsilon", 1e-5))))
    z = c.op.Div(centred, deviation)
    shared = c.op.Add(mean(c, h, axes, n), c.op.Mul(z, mean(c, c.op.Mul(h, z), axes, n)))
    return c.op.Div(c.op.Sub(h, shared), deviation)


def layer_normalization(c: Context, g: str) -> Cotangents:
    """`y = z * s + b, z = x standardized over the last axes, s and b constant`: `_standardized` with h = g * s."""
    c.only(0)
    rank = len(c.shape(c.x()))
    axes = list(range(c.attribute("axis", -1) % rank, rank))
    n = int(np.prod(c.sizes(c.x(), axes)))
    return [_standardized(c, c.op.Mul(g, c.x(1)), c.x(), axes, n)]


def instance_normalization(c: Context, g: str) -> Cotangents:
    """`y = z * s + b, z = each channel of each image standardized`: `_standardized` with h = g * s."""
    c.only(0)
    axes = list(range(2, len(c.shape(c.x()))))
    n = int(np.prod(c.sizes(c.x(), axes)))
    scale = c.like(c.value(1).reshape(-1, *[1] * len(axes)))
    return [_standardized(c, c.op.Mul(g, scale), c.x(), axes, n)]


def local_response_normalization(c: Context, g: str) -> Cotangents:
    """`y = x * q^-b, q = k + a / n * B x^2`, B the sum over n neighbouring channels.

    dx = g * q^-b - 2 a b / n * x * B^T(g * x * q^(-b-1)). B is a band of ones, applied as a convolution of size 1.
    """
    (channels,) = c.sizes(c.x(), [1])
    n, rank = c.attribute("size", 1), len(c.shape(c.x()))
    a, b, k = c.attribute("alpha", 1e-4), c.attribute("beta", 0.75), c.attribute("bias", 1.0)
    away = np.arange(channels) - np.arange(channels)[:, None]
    band = ((away >= -((n - 1) // 2)) & (away <= n // 2)).reshape(channels, channels, *[1] * (rank - 2))
    squares = c.op.Conv(c.op.Mul(c.x(), c.x()), c.like(a / n * band))
    q = c.op.Add(squares, c.like(k))
    scaled = c.op.Mul(g, c.op.Pow(q, c.like(-b)))
    shared = c.op.Conv(c.op.Div(c.op.Mul(scaled, c.x()), q), c.like(2 * a * b / n * band.swapaxes(0, 1)))
    return [c.op.Sub(scaled, c.op.Mul(c.x(), shared))]


# Linear algebra


def gemm(c: Context, g: str) -> Cotangents:
    """Y = p A' B' + q C, A' and B' transposed if so asked: dA' = p g B'^T, dB' = p A'^T g, dC = q g.

    The transposes are flags of the new Gemm, and the roles change places where A or B itself is transposed.
    """
    a, b = bool(c.attribute("transA", 0)), bool(c.attribute("transB", 0))
    p, q = c.attribute("alpha", 1.0), c.attribute("beta", 1.0)

    def product(left: str, right: str, left_flag: bool, right_flag: bool) -> str:
        return c.op.Gemm(left, right, transA=int(left_flag), transB=int(right_flag), alpha=p)

    da = product(c.x(1), g, b, True) if a else product(g, c.x(1), False, not b)
    db = product(g, c.x(0), True, a) if b else product(c.x(0), g, not a, False)
    if 2 not in c.wanted:
        return [da, db]
    return [da, db, unbroadcast(c, g if q == 1 else c.op.Mul(g, c.like(q)), c.x(2))]


def matmul(c: Context, g: str) -> Cotangents:
    """Y = A B over the last two axes: dA = g B^T, dB = A^T g.

    Where B is a matrix, dA is one Gemm over all rows, which reads B transposed in place.
    """
    a, b = c.x(0), c.x(1)
    ranks = [len(c.shape(name)) for name in (a, b)]
    if min(ranks) < 2:
        raise c.refusal("an operand is a vector")
    cotangents: list[str | None] = [None, None]
    if 0 in c.wanted and ranks[1] == 2:
        rows = c.op.Reshape(g, c.ints(-1, *c.sizes(b, [1])))
        cotangents[0] = reshaped(c, c.op.Gemm(rows, b, transB=1), a)
    elif 0 in c.wanted:
        cotangents[0] = _batch_sum(c, c.op.MatMul(g, _transposed(c, b)), a)
    if 1 in c.wanted:
        cotangents[1] = _batch_sum(c, c.op.MatMul(_transposed(c, a), g), b)
    return cotangents


def _transposed(c: Context, name: str) -> str:
    axes = list(range(len(c.shape(name))))
    return c.op.Transpose(name, perm=[*axes[:-2], axes[-1], axes[-2]])


def _batch_sum(c: Context, g: str, name: str) -> str:
    """Sum over the leading axes along which an operand of MatMul was repeated."""
    shape, full = c.shape(name), c.shape(c.y)
    lead = len(full) - len(shape)
    small = (None,) * lead + shape
    axes = [a for a in range(len(full) - 2) if a < lead or (small[a] == 1 and full[a] != 1)]
    if axes:
        g = c.op.ReduceSum(g, c.ints(*axes), keepdims=1)
    return c.op.Squeeze(g, c.ints(*range(lead))) if lead else g


# Shapes


def reshape(c: Context, g: str) -> Cotangents:
    """`y` holds the numbers of x in another shape: dx = g in the shape of x."""
    return [reshaped(c, g, c.x())]


def transpose(c: Context, g: str) -> Cotangents:
    """`y = x with its axes permuted`: dx = g with the inverse permutation."""
    rank = len(c.shape(c.x()))
    permutation = c.attribute("perm", list(reversed(range(rank))))
    return [c.op.Transpose(g, perm=[int(i) for i in np.argsort(permutation)])]


def concat(c: Context, g: str) -> Cotangents:
    """`y = the inputs laid end to end along an axis`: each dx is its own piece of g."""
    axis = c.attribute("axis", 0)
    sizes = [c.sizes(name, [axis])[0] for name in c.node.input]
    return c.builder.write("Split", (g, c.ints(*sizes)), len(sizes), axis=axis)


def split(c: Context, *g: str | None) -> Cotangents:
    """`y_k = the k-th piece of x along an axis`: dx = all g laid end to end, zeros where one is missing."""
    c.only(0)
    pieces = [piece or c.op.Mul(name, c.like(0)) for name, piece in zip(c.node.output, g, strict=True)]
    return [c.op.Concat(*pieces, axis=c.attribute("axis", 0))]


def slices(c: Context, g: str) -> Cotangents:
    """`y = x[start:end:step]` along some axes: dx = g with zeros around it, and between where the step is not 1."""
    c.only(0)
    starts, rank = c.integers(1, "starts") or [], len(c.shape(c.x()))
    axes = [a % rank for a in c.integers(3, "axes") or range(len(starts))]
    steps = c.integers(4, "steps") or [1] * len(axes)
    before, after, sizes = [0] * rank, [0] * rank, list(c.shape(c.y))
    for axis, start, step in zip(axes, starts, steps, strict=True):
        whole, part = c.sizes(c.x(), [axis])[0], c.sizes(c.y, [axis])[0]
        first = min(max(start + whole if start < 0 else start, 0), whole - (step < 0))
        if step < 0:
            g = c.op.Slice(g, c.ints(-1), c.ints(np.iinfo(np.int64).min), c.ints(axis), c.ints(-1))
            first += (part - 1) * step
        if abs(step) > 1:
            g = _stretched(c, g, axis, abs(step), sizes)
        before[axis], after[axis] = first, whole - first - (sizes[axis] or 0)
    return [c.op.Pad(g, c.ints(*before, *after))]


def _stretched(c: Context, g: str, axis: int, step: int, sizes: list[int | None]) -> str:
    """The cells of g, of these sizes, with step - 1 zeros between each two along an axis."""
    n = (sizes[axis] or 0) * step
    trail = [0] * (len(sizes) + 1)
    trail[axis + 1] = step - 1
    spread = c.op.Pad(c.op.Unsqueeze(g, c.ints(axis + 1)), c.ints(*[0] * len(trail), *trail))
    merged = c.op.Reshape(spread, c.ints(*[0] * axis, n, *sizes[axis + 1 :]))
    sizes[axis] = n - step + 1
    return c.op.Slice(merged, c.ints(0), c.ints(n - step + 1), c.ints(axis))


def pad(c: Context, g: str) -> Cotangents:
    """`y = x with constants around it`: dx = the inner part of g."""
    c.only(0)
    pads = c.integers(1, "pads") or []
    rank = len(c.shape(c.x()))
    axes = [a % rank for a in c.integers(3, "axes") or range(rank)]
    if c.attribute("mode", "constant") != "constant" or min(pads) < 0:
        raise c.refusal("only padding by constants has a rule")
    places = [(a, b, e) for a, b, e in zip(axes, pads, pads[len(axes) :], strict=False) if b or e]
    starts, ends = [b for _, b, _ in places], [-e or np.iinfo(np.int64).max for _, _, e in places]
    return [c.op.Slice(g, c.ints(*starts), c.ints(*ends), c.ints(*[a for a, _, _ in places]))]


def expand(c: Context, g: str) -> Cotangents:
    """`y = x, repeated along axes of size 1`: dx = g summed over them."""
    return [unbroadcast(c, g, c.x())]


def tile(c: Context, g: str) -> Cotangents:
    """`y = x, r times along each axis`: dx = the sum of the r pieces of g."""
    repeats = [int(r) for r in c.value(1)]
    pieces = chain.from_iterable(zip(repeats, c.shape(c.x()), strict=True))
    cut = c.op.Reshape(g, c.ints(*pieces))
    return [c.op.ReduceSum(cut, c.ints(*range(0, 2 * len(repeats), 2)), keepdims=0)]


def gather(c: Context, g: str) -> Cotangents:
    """`y = x[..., i, ...], i indices along an axis`: dx = zeros, to which g is added at i."""
    c.only(0)
    rank, places = len(c.shape(c.x())), len(c.shape(c.x(1)))
    axis = c.attribute("axis", 0) % rank
    others = [a for a in range(rank) if a != axis]
    moved = [a + (places - 1) * (a > axis) for a in others]
    nothing, g = zeros_like(c, c.x()), c.op.Transpose(g, perm=[*range(axis, axis + places), *moved])
    nothing = c.op.Transpose(nothing, perm=[axis, *others])
    dx = c.op.ScatterND(nothing, c.op.Unsqueeze(c.x(1), c.ints(-1)), g, reduction="add")
    return [c.op.Transpose(dx, perm=[int(i) for i in np.argsort([axis, *others])])]


def gather_nd(c: Context, g: str) -> Cotangents:
    """`y = x[i], i tuples of indices`: dx = zeros, to which g is added at i."""
    c.only(0)
    if c.attribute("batch_dims", 0):
        raise c.refusal("its indices differ from image to image")
    return [c.op.ScatterND(zeros_like(c, c.x()), c.x(1), g, reduction="add")]


def depth_to_space(c: Context, g: str) -> Cotangents:
    """`y = channels laid out as blocks of b x b cells`: dx = the blocks of g as channels."""
    b = c.attribute("blocksize", 1)
    if c.attribute("mode", "DCR") == "DCR":
        return [c.op.SpaceToDepth(g, blocksize=b)]
    channels, height, width = c.sizes(c.x(), [1, 2, 3])
    cut = c.op.Reshape(g, c.ints(-1, channels // b**2, height, b, width, b))
    return [reshaped(c, c.op.Transpose(cut, perm=[0, 1, 3, 5, 2, 4]), c.x())]


def space_to_depth(c: Context, g: str) -> Cotangents:
    """`y = blocks of b x b cells laid out as channels`: dx = the channels of g as blocks."""
    return [c.op.DepthToSpace(g, blocksize=c.attribute("blocksize", 1))]


# Reductions


def _reduced(c: Context) -> list[int]:
    """The axes that a reduction sums over."""
    rank = len(c.shape(c.x()))
    axes = c.integers(1, "axes")
    if not axes and c.attribute("noop_with_empty_axes", 0):
        return []
    return sorted(axis % rank for axis in axes or range(rank))


def _spread(c: Context, g: str, axes: list[int]) -> str:
    """The cotangent g repeated along the axes that were reduced."""
    if not c.attribute("keepdims", 1):
        g = c.op.Unsqueeze(g, c.ints(*axes))
    shape = c.shape(c.x())
    if any(shape[axis] is None for axis in axes):
        return c.op.Expand(g, c.op.Shape(c.x()))
    return c.op.Expand(g, c.ints(*(shape[a] if a in axes else 1 for a in range(len(shape)))))


def reduce_sum(c: Context, g: str) -> Cotangents:
    """`y = sum of x over some axes`: dx = g, repeated."""
    return [_spread(c, g, _reduced(c))]


def reduce_mean(c: Context, g: str) -> Cotangents:
    """`y = mean of x over n cells`: dx = g / n, repeated."""
    axes = _reduced(c)
    n = float(np.prod(c.sizes(c.x(), axes)))
    return [_spread(c, c.op.Mul(g, c.like(1 / n)), axes)]


def reduce_max(c: Context, g: str) -> Cotangents:
    """`y = max or min of x over some axes`: dx = g * [x = y] / n, n the number of cells that are equal to y."""
    return [_largest(c, g, _reduced(c))]


def global_max_pool(c: Context, g: str) -> Cotangents:
    """`y = max of x over the cells of a feature map`: dx = g * [x = y] / n, n the cells that are equal to y."""
    return [_largest(c, g, list(range(2, len(c.shape(c.x())))))]


def _largest(c: Context, g: str, axes: list[int]) -> str:
    kind = helper.np_dtype_to_tensor_dtype(c.graph.dtype(c.x()))
    chosen = c.op.Cast(c.op.Equal(c.x(), _spread(c, c.y, axes)), to=kind)
    n = c.op.ReduceSum(chosen, c.ints(*axes), keepdims=1)
    return c.op.Mul(_spread(c, g, axes), c.op.Div(chosen, n))


def reduce_l2(c: Context, g: str) -> Cotangents:
    """`y = sqrt(sum of x^2 over some axes)`: dx = g * x / y, 0 where y = 0."""
    share = c.op.Where(c.op.Equal(c.y, c.like(0)), c.like(0), c.op.Div(g, c.y))
    return [c.op.Mul(_spread(c, share, _reduced(c)), c.x())]


def global_average_pool(c: Context, g: str) -> Cotangents:
    """`y = mean of x over the n cells of a feature map`: dx = g / n, repeated."""
    axes = list(range(2, len(c.shape(c.x()))))
    n = float(np.prod(c.sizes(c.x(), axes)))
    return [_spread(c, c.op.Mul(g, c.like(1 / n)), axes)]


RULES: dict[str, Rule] = {
    "Abs": absolute,
    "Add": add,
    "ArgMax": zero,
    "ArgMin": zero,
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Cast": cast,
    "Ceil": zero,
    "Celu": celu,
    "Clip": clip,
    "Concat": concat,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Div": div,
    "Dropout": dropout,
    "Elu": elu,
    "Erf": erf,
    "Exp": exp,
    "Expand": expand,
    "Flatten": reshape,
    "Floor": zero,
    "Gather": gather,
    "GatherND": gather_nd,
    "Gelu": gelu,
    "Gemm": gemm,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Identity": identity,
    "InstanceNormalization": instance_normalization,
    "LRN": local_response_normalization,
    "LayerNormalization": layer_normalization,
    "LeakyRelu": leaky_relu,
    "Log": log,
    "LogSoftmax": log_softmax,
    "MatMul": matmul,
    "Max": maximum,
    "MaxPool": max_pool,
    "Mean": average,
    "Min": maximum,
    "Mish": mish,
    "Mul": mul,
    "Neg": neg,
    "PRelu": prelu,
    "Pad": pad,
    "Pow": power,
    "Reciprocal": reciprocal,
    "ReduceL2": reduce_l2,
    "ReduceMax": reduce_max,
    "ReduceMean": reduce_mean,
    "ReduceMin": reduce_max,
    "ReduceSum": reduce_sum,
    "Relu": relu,
    "Reshape": reshape,
    "Resize": resize,
    "Round": zero,
    "Selu": selu,
    "Shape": zero,
    "Sigmoid": sigmoid,
    "Sign": zero,
    "Size": zero,
    "Slice": slices,
    "Softmax": softmax,
    "Softplus": softplus,
    "Softsign": softsign,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Sqrt": root,
    "Squeeze": reshape,
    "Sub": sub,
    "Sum": total,
    "Tanh": tanh,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": reshape,
    "Where": where,
}
