"""Rules of convolution, pooling and resizing. Convolutions read the stored weights as they are, never transposed."""

from functools import reduce
from typing import Any

import numpy as np
from onnx import helper

from percept_models.autodiff.context import Context, Cotangents, reshape_like
from percept_models.graph.interpolation import interpolation_matrix
from percept_models.graph.reader import Array
from percept_models.graph.window import Window


def _input_size(c: Context) -> list[int]:
    return c.sizes(c.x(), range(2, len(c.shape(c.x()))))


def _output_size(c: Context) -> list[int]:
    return c.sizes(c.y, range(2, len(c.shape(c.y))))


def _uncovered(c: Context, w: Window) -> list[int]:
    """Return how many cells at the end of x no window covers, per axis; negative where windows extend beyond it."""
    parts = zip(_input_size(c), _output_size(c), w.stride, w.span, w.pads_begin, w.pads_end, strict=True)
    return [n + b + e - (m - 1) * s - r - 1 for n, m, s, r, b, e in parts]


def _conv_attributes(c: Context, w: Window) -> dict[str, Any]:
    """Return the attributes that a convolution and its transpose have in common."""
    return {
        "group": c.attribute("group", 1),
        "kernel_shape": w.kernel,
        "strides": w.stride,
        "dilations": w.dilation,
        "pads": w.pads_begin + w.pads_end,
    }


def conv(c: Context, g: str) -> Cotangents:
    """`y = the convolution of x by W, plus b`: dx = the transposed convolution of g by W, padded to the size of x."""
    c.grad_only_for(0)
    w = c.window()
    dx = c.op.ConvTranspose(g, c.x(1), **_conv_attributes(c, w), output_padding=_uncovered(c, w))
    return [dx]


def conv_transpose(c: Context, g: str) -> Cotangents:
    """`y = the transposed convolution of x by W, plus b`: dx = the convolution of g by W, cut to the size of x."""
    c.grad_only_for(0)
    if c.attribute("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in c.attributes:
        raise c.unsupported("its padding is automatic")
    w = c.window()
    dx = c.op.Conv(g, c.x(1), **_conv_attributes(c, w))
    surplus = _surplus(c, w)
    if any(surplus):
        axes = range(2, 2 + len(surplus))
        dx = c.op.Slice(dx, c.ints(*[0] * len(surplus)), c.ints(*_input_size(c)), c.ints(*axes))
    return [dx]


def _surplus(c: Context, w: Window) -> list[int]:
    """Return how many cells more than x the convolution of g has per axis, because of output_padding."""
    parts = zip(_output_size(c), _input_size(c), w.stride, w.span, w.pads_begin, w.pads_end, strict=True)
    return [(m + b + e - r - 1) // s + 1 - n for m, n, s, r, b, e in parts]


def _pooling_window(c: Context) -> Window:
    """Return the window of a pooling; raise `UnsupportedOperator` if the last one lies wholly beyond the input.

    In ceil mode ONNX's shape inference counts such a window and ONNX Runtime does not.
    """
    w = c.window()
    cells = _output_size(c)
    parts = zip(_input_size(c), cells, w.stride, w.pads_begin, strict=True)
    if any((m - 1) * s >= n + b for n, m, s, b in parts):
        raise c.unsupported("its last window lies beyond the input")
    return w


def max_pool(c: Context, g: str, *indices: str) -> Cotangents:
    """`y = x[indices]`: dx = zeros with g added at the indices, which the pooling reports as its second output."""
    _pooling_window(c)
    if c.attribute("storage_order", 0):
        raise c.unsupported("its indices are in column order")
    if len(c.node.output) < 2:
        c.node.output.append(c.builder.fresh("indices"))
    flat = c.ints(-1)
    count = c.op.Reshape(c.op.Size(c.x()), flat)
    dtype = helper.np_dtype_to_tensor_dtype(c.graph.dtype(c.x()))
    dx = c.op.ScatterElements(
        c.op.ConstantOfShape(count, value=helper.make_tensor("zero", dtype, [1], [0])),
        c.op.Reshape(c.node.output[1], flat),
        c.op.Reshape(g, flat),
        axis=0,
        reduction="add",
    )
    return [reshape_like(c, dx, c.x())]


def average_pool(c: Context, g: str) -> Cotangents:
    """`y = sum of a window / n`: dx = the transposed convolution of g / n by ones, channel by channel.

    n differs at the edges where padding is not counted, or where a window extends beyond the end (ceil mode). Windows
    of one cell, as adaptive pooling becomes in VGG and AlexNet, pass g on unchanged.
    """
    w = _pooling_window(c)
    if {*w.kernel, *w.stride} == {1} and not any(w.pads_begin + w.pads_end):
        return [g]
    uncovered = _uncovered(c, w)
    n = _window_counts(c, w)
    g = c.op.Div(g, c.constant(n if n.min() != n.max() else n.max()))
    dx = c.op.ConvTranspose(
        c.op.Reshape(g, c.ints(-1, 1, *_output_size(c))),
        c.constant(np.ones((1, 1, *w.kernel))),
        kernel_shape=w.kernel,
        strides=w.stride,
        dilations=w.dilation,
        pads=[*w.pads_begin, *(e + max(-o, 0) for e, o in zip(w.pads_end, uncovered, strict=True))],
        output_padding=[max(o, 0) for o in uncovered],
    )
    return [reshape_like(c, dx, c.x())]


def _window_counts(c: Context, w: Window) -> Array:
    """Return the number of cells that each window averages, [h,w]."""
    padded = c.attribute("count_include_pad", 0)
    counts = []
    for i, (n, m) in enumerate(zip(_input_size(c), _output_size(c), strict=True)):
        first = np.arange(m)[:, None] * w.stride[i] - w.pads_begin[i]
        taps = first + np.arange(w.kernel[i]) * w.dilation[i]
        low, high = (-w.pads_begin[i], n + w.pads_end[i]) if padded else (0, n)
        counts.append(((taps >= low) & (taps < high)).sum(1))
    return np.asarray(reduce(np.multiply.outer, counts))


def resize(c: Context, g: str) -> Cotangents:
    """`y = P x Q^T, as every interpolation is linear and separable`: dx = P^T g Q, P and Q constant."""
    c.grad_only_for(0)
    rank = len(c.shape(c.x()))
    if rank != 4 or c.shape(c.x())[1] != c.shape(c.y)[1]:
        raise c.unsupported("only resizing of height and width has a rule")
    for axis in (2, 3):
        p = _interpolation(c, axis)
        if p is not None:
            g = c.op.MatMul(c.constant(p.T), g) if axis == 2 else c.op.MatMul(g, c.constant(p))
    return [g]


def _interpolation(c: Context, axis: int) -> Array | None:
    try:
        return interpolation_matrix(c.node, c.graph, axis)
    except ValueError as error:
        raise c.unsupported(str(error)) from error
