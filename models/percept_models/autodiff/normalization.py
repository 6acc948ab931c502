"""Rules of normalization layers, as they are at inference."""

import numpy as np

from percept_models.autodiff.context import Context, Cotangents, mean


def batch_normalization(c: Context, g: str) -> Cotangents:
    """`y = (x - m) / sqrt(v + e) * s + b, all constant`: dx = g * s / sqrt(v + e)."""
    c.grad_only_for(0)
    scale = c.value(1) / np.sqrt(c.value(4) + c.attribute("epsilon", 1e-5))
    rank = len(c.shape(c.x()))
    return [c.op.Mul(g, c.constant(scale.reshape(-1, *[1] * (rank - 2))))]


def _standardize_gradient(c: Context, h: str, x: str, axes: list[int], n: int) -> str:
    """`z = (x - m) / sqrt(v + e)`, m the mean and v the variance of n cells over some axes, h the cotangent of z:

    dx = (h - mean(h) - z * mean(h * z)) / sqrt(v + e).
    """
    centred = c.op.Sub(x, mean(c, x, axes, n))
    variance = mean(c, c.op.Mul(centred, centred), axes, n)
    deviation = c.op.Sqrt(c.op.Add(variance, c.constant(c.attribute("epsilon", 1e-5))))
    z = c.op.Div(centred, deviation)
    shared = c.op.Add(mean(c, h, axes, n), c.op.Mul(z, mean(c, c.op.Mul(h, z), axes, n)))
    return c.op.Div(c.op.Sub(h, shared), deviation)


def layer_normalization(c: Context, g: str) -> Cotangents:
    """`y = z * s + b, z = x standardized over the last axes, s constant`: `_standardize_gradient` with h = g * s."""
    c.grad_only_for(0)
    rank = len(c.shape(c.x()))
    axes = list(range(c.attribute("axis", -1) % rank, rank))
    n = int(np.prod(c.sizes(c.x(), axes)))
    return [_standardize_gradient(c, c.op.Mul(g, c.x(1)), c.x(), axes, n)]


def instance_normalization(c: Context, g: str) -> Cotangents:
    """`y = z * s + b, z = x standardized over the cells of each channel, s constant`: as `layer_normalization`."""
    c.grad_only_for(0)
    axes = list(range(2, len(c.shape(c.x()))))
    n = int(np.prod(c.sizes(c.x(), axes)))
    scale = c.constant(c.value(1).reshape(-1, *[1] * len(axes)))
    return [_standardize_gradient(c, c.op.Mul(g, scale), c.x(), axes, n)]


def lrn(c: Context, g: str) -> Cotangents:
    """`y = x * q^-b, q = k + a / n * B x^2`, B x the sum of x over n neighbouring channels:

    dx = g * q^-b - 2 a b / n * x * B^T(g * x * q^(-b-1)). B is a band matrix of ones, applied as a 1x1 convolution.
    """
    (channels,) = c.sizes(c.x(), [1])
    n, rank = c.attribute("size", 1), len(c.shape(c.x()))
    a, b, k = c.attribute("alpha", 1e-4), c.attribute("beta", 0.75), c.attribute("bias", 1.0)
    distance = np.arange(channels) - np.arange(channels)[:, None]
    band = ((distance >= -((n - 1) // 2)) & (distance <= n // 2)).reshape(channels, channels, *[1] * (rank - 2))
    squares = c.op.Conv(c.op.Mul(c.x(), c.x()), c.constant(a / n * band))
    q = c.op.Add(squares, c.constant(k))
    scaled = c.op.Mul(g, c.op.Pow(q, c.constant(-b)))
    shared = c.op.Conv(c.op.Div(c.op.Mul(scaled, c.x()), q), c.constant(2 * a * b / n * band.swapaxes(0, 1)))
    return [c.op.Sub(scaled, c.op.Mul(c.x(), shared))]
