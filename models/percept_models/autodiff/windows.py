"""Rules of the operators that slide a window over a feature map, or resize it.

What a rule is and what the letters mean is said in `context.py`; the table is in `rules.py`. Weights are read
transposed, never transposed at run time.
"""

from functools import reduce
from typing import Any

import numpy as np
from onnx import helper

from percept_models.autodiff.context import Context, Cotangents, reshaped
from percept_models.graph.interpolation import interpolation
from percept_models.graph.reader import Array, Window


def _spatial(c: Context) -> list[int]:
    return c.sizes(c.x(), range(2, len(c.shape(c.x()))))


def _untouched(c: Context, w: Window) -> list[int]:
    """How many cells at the end of x no window covers, per axis; negative where windows reach over it."""
    cells = c.sizes(c.y, range(2, len(c.shape(c.y))))
    parts = zip(_spatial(c), cells, w.stride, w.reach, w.begin, w.end, strict=True)
    return [n + b + e - (m - 1) * s - r - 1 for n, m, s, r, b, e in parts]


def _settings(c: Context, w: Window) -> dict[str, Any]:
    """The attributes that a convolution and its transpose have in common."""
    return {
        "group": c.attribute("group", 1),
        "kernel_shape": w.kernel,
        "strides": w.stride,
        "dilations": w.dilation,
        "pads": w.begin + w.end,
    }


def conv(c: Context, g: str) -> Cotangents:
    """`y = W * x + b`, * the convolution: dx = its transpose on g by the very same W, padded to the size of x."""
    c.only(0)
    w = c.window()
    dx = c.op.ConvTranspose(g, c.x(1), **_settings(c, w), output_padding=_untouched(c, w))
    return [dx]


def conv_transpose(c: Context, g: str) -> Cotangents:
    """`y = the transposed convolution of x by W`: dx = W * g, * the convolution, by the same W."""
    c.only(0)
    if c.attribute("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in c.attributes:
        raise c.refusal("its padding is automatic")
    w = c.window()
    dx = c.op.Conv(g, c.x(1), **_settings(c, w))
    beyond = _spare(c, w)
    if any(beyond):
        axes = range(2, 2 + len(beyond))
        dx = c.op.Slice(dx, c.ints(*[0] * len(beyond)), c.ints(*_spatial(c)), c.ints(*axes))
    return [dx]


def _spare(c: Context, w: Window) -> list[int]:
    """How many cells too many the convolution of conv_transpose's g gives, because of output_padding."""
    sizes = c.sizes(c.y, range(2, len(c.shape(c.y))))
    parts = zip(sizes, _spatial(c), w.stride, w.reach, w.begin, w.end, strict=True)
    return [(m + b + e - r - 1) // s + 1 - n for m, n, s, r, b, e in parts]


def _pooling(c: Context) -> Window:
    """The window of a pooling; refused where its last one would lie wholly beyond the input.

    ONNX's shape inference counts such a window in ceil mode and ONNX Runtime does not.
    """
    w = c.window()
    cells = c.sizes(c.y, range(2, len(c.shape(c.y))))
    parts = zip(_spatial(c), cells, w.stride, w.begin, strict=True)
    if any((m - 1) * s >= n + b for n, m, s, b in parts):
        raise c.refusal("its last window lies beyond the input")
    return w


def max_pool(c: Context, g: str, *indices: str) -> Cotangents:
    """`y = x[indices]`: dx = zeros, to which g is added at the indices that the pooling itself reports."""
    _pooling(c)
    if c.attribute("storage_order", 0):
        raise c.refusal("its indices are in column order")
    if len(c.node.output) < 2:
        c.node.output.append(c.builder.fresh("indices"))
    flat = c.ints(-1)
    count = c.op.Reshape(c.op.Size(c.x()), flat)
    nothing = helper.make_tensor("zero", helper.np_dtype_to_tensor_dtype(c.graph.dtype(c.x())), [1], [0])
    dx = c.op.ScatterElements(
        c.op.ConstantOfShape(count, value=nothing),
        c.op.Reshape(c.node.output[1], flat),
        c.op.Reshape(g, flat),
        axis=0,
        reduction="add",
    )
    return [reshaped(c, dx, c.x())]


def average_pool(c: Context, g: str) -> Cotangents:
    """`y = sum of a window / n`: dx = the transposed convolution of g / n by ones, channel by channel.

    n differs at the edges where padding is not counted, or where a window reaches over the end (ceil mode). Windows
    of one cell, which adaptive pooling leaves behind (VGG, AlexNet), hand g on as it is.
    """
    w = _pooling(c)
    if {*w.kernel, *w.stride} == {1} and not any(w.begin + w.end):
        return [g]
    over = _untouched(c, w)
    n = _counts(c, w)
    g = c.op.Div(g, c.like(n if n.min() != n.max() else n.max()))
    cells = c.sizes(c.y, range(2, len(c.shape(c.y))))
    dx = c.op.ConvTranspose(
        c.op.Reshape(g, c.ints(-1, 1, *cells)),
        c.like(np.ones((1, 1, *w.kernel))),
        kernel_shape=w.kernel,
        strides=w.stride,
        dilations=w.dilation,
        pads=[*w.begin, *(e + max(-o, 0) for e, o in zip(w.end, over, strict=True))],
        output_padding=[max(o, 0) for o in over],
    )
    return [reshaped(c, dx, c.x())]


def _counts(c: Context, w: Window) -> Array:
    """The number of cells that each window averages, [h,w]."""
    padded = c.attribute("count_include_pad", 0)
    cells = c.sizes(c.y, range(2, len(c.shape(c.y))))
    counts = []
    for i, (n, m) in enumerate(zip(_spatial(c), cells, strict=True)):
        first = np.arange(m)[:, None] * w.stride[i] - w.begin[i]
        taps = first + np.arange(w.kernel[i]) * w.dilation[i]
        low, high = (-w.begin[i], n + w.end[i]) if padded else (0, n)
        counts.append(((taps >= low) & (taps < high)).sum(1))
    return np.asarray(reduce(np.multiply.outer, counts))


def resize(c: Context, g: str) -> Cotangents:
    """`y = P x Q^T, whatever the interpolation, for it is linear and separable`: dx = P^T g Q.

    P and Q are constant: `interpolation` asks the operator itself for them.
    """
    c.only(0)
    rank = len(c.shape(c.x()))
    if rank != 4 or c.shape(c.x())[1] != c.shape(c.y)[1]:
        raise c.refusal("only resizing of height and width has a rule")
    for axis in (2, 3):
        p = interpolation(c.node, c.graph, axis)
        if p is None:
            continue
        g = c.op.MatMul(c.like(p.T), g) if axis == 2 else c.op.MatMul(g, c.like(p))
    return [g]
