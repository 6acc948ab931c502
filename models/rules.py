"""RULES: operator -> reverse-mode rule.

A rule gets the context of a node y = f(x_0, x_1, ...) and the name g of the cotangent of y (one for each output,
None where nothing depends on it); it writes ordinary ONNX operators and returns, for each input, the name of its
cotangent or None. Three verbs: a rule, a declared `zero`, and anything else fails by name (`UnsupportedOperator`).

In the equations x is the input, y the output, g = dL/dy, dx = dL/dx, and * between tensors is elementwise.
`unbroadcast` undoes NumPy's broadcasting. Nothing is transposed at run time that could be read transposed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from models.graph import OPSET, Array, Builder, Graph, Operators, Shape, Window, attributes, window
from models.graph import run as evaluate
from service.errors import PerceptError

Cotangents = Sequence[str | None]
Rule = Callable[..., Cotangents]


class UnsupportedOperator(PerceptError):
    """An operator, or a use of it, through which gradients cannot be computed."""

    def __init__(self, operator: str, why: str = "it has no rule") -> None:
        super().__init__(f"no gradients through the operator {operator}: {why}")
        self.operator = operator


@dataclass(frozen=True)
class Context:
    """A node with what a rule may know of it; `wanted` are the inputs that depend on the cut."""

    node: NodeProto
    graph: Graph
    builder: Builder
    wanted: frozenset[int]

    @property
    def op(self) -> Operators:
        """Writes an operator: `c.op.Add(a, b)`."""
        return self.builder.op

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the node as Python values."""
        return attributes(self.node)

    def attribute(self, name: str, default: Any) -> Any:
        """One attribute, or its default."""
        return self.attributes.get(name, default)

    def x(self, i: int = 0) -> str:
        """The name of input i; empty where it is left out."""
        inputs: Sequence[str] = self.node.input
        return inputs[i] if i < len(inputs) else ""

    @property
    def y(self) -> str:
        """The name of the first output."""
        outputs: Sequence[str] = self.node.output
        return outputs[0]

    def shape(self, name: str) -> Shape:
        """The shape of a tensor, None where a size is symbolic."""
        if name not in self.graph.shapes:
            raise self.refusal(f"the shape of {name} is not known")
        return self.graph.shapes[name]

    def sizes(self, name: str, axes: Sequence[int]) -> list[int]:
        """The sizes along some axes, which must be static."""
        found = [self.shape(name)[axis] for axis in axes]
        if None in found:
            raise self.refusal(f"the size of {name} is not known")
        return [size for size in found if size is not None]

    def value(self, i: int) -> Array:
        """The value of input i, which must be stored."""
        value = self.graph.value(self.x(i))
        if value is None:
            raise self.refusal(f"input {i} is computed")
        return value

    def integers(self, i: int, attribute: str) -> list[int] | None:
        """Integers that newer operators take as input i and older ones as an attribute."""
        if self.x(i):
            return [int(v) for v in self.value(i).ravel()]
        return self.attributes.get(attribute)

    def ints(self, *values: int | None) -> str:
        """A constant int64 vector; None, of which there may be one, becomes -1."""
        return self.builder.constant(np.array([-1 if v is None else v for v in values], np.int64))

    def like(self, value: Any, name: str | None = None) -> str:
        """A constant of the type of a tensor, by default of the first input."""
        return self.builder.constant(np.asarray(value, self.graph.dtype(name or self.x())))

    def window(self) -> Window:
        """The sliding window of the node."""
        try:
            return window(self.node, self.graph)
        except ValueError as error:
            raise self.refusal(str(error)) from error

    def only(self, *inputs: int) -> None:
        """Refuse the node where an input other than these depends on the cut."""
        if not self.wanted <= set(inputs):
            raise self.refusal(f"input {min(self.wanted - set(inputs))} depends on the layer")

    def refusal(self, why: str) -> UnsupportedOperator:
        """The error that says why this node cannot be reversed."""
        return UnsupportedOperator(self.node.op_type, why)


def reshaped(c: Context, g: str, name: str) -> str:
    """The cotangent g in the shape of a tensor; more than one symbolic size is read at run time."""
    shape = c.shape(name)
    symbolic = shape.count(None) > 1 or (None in shape and 0 in shape)
    return c.op.Reshape(g, c.op.Shape(name) if symbolic else c.ints(*shape))


def unbroadcast(c: Context, g: str, name: str) -> str:
    """Sum g over the axes along which a tensor was repeated to the shape of y."""
    shape, full = c.shape(name), c.shape(c.y)
    lead = len(full) - len(shape)
    small = (None,) * lead + shape
    axes = [a for a in range(len(full)) if a < lead or (small[a] == 1 and full[a] != 1)]
    if axes:
        g = c.op.ReduceSum(g, c.ints(*axes), keepdims=1)
    return c.op.Squeeze(g, c.ints(*range(lead))) if lead else g


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


def neg(c: Context, g: str) -> Cotangents:
    """`y = -x`: dx = -g."""
    return [c.op.Neg(g)]


def absolute(c: Context, g: str) -> Cotangents:
    """`y = |x|`: dx = g * sign(x)."""
    return [c.op.Mul(g, c.op.Sign(c.x()))]


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


def leaky_relu(c: Context, g: str) -> Cotangents:
    """`y = x where x > 0, else a * x`: dx = g * (a + (1 - a) * [x > 0])."""
    a = c.attribute("alpha", 0.01)
    above = c.op.Sign(c.op.Relu(c.x()))
    return [c.op.Mul(g, c.op.Add(c.op.Mul(above, c.like(1 - a)), c.like(a)))]


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


def softmax(c: Context, g: str) -> Cotangents:
    """`y_i = e^x_i / sum_j e^x_j along an axis`: dx = y * (g - sum(g * y))."""
    axis = c.ints(c.attribute("axis", -1))
    both = c.op.ReduceSum(c.op.Mul(g, c.y), axis, keepdims=1)
    return [c.op.Mul(c.y, c.op.Sub(g, both))]


def batch_normalization(c: Context, g: str) -> Cotangents:
    """`y = (x - m) / sqrt(v + e) * s + b, all constant`: dx = g * s / sqrt(v + e)."""
    c.only(0)
    scale = c.value(1) / np.sqrt(c.value(4) + c.attribute("epsilon", 1e-5))
    rank = len(c.shape(c.x()))
    return [c.op.Mul(g, c.like(scale.reshape(-1, *[1] * (rank - 2))))]


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
    """`y = x[start:end]` along some axes, in steps of 1: dx = g with zeros around it."""
    c.only(0)
    starts, rank = c.integers(1, "starts") or [], len(c.shape(c.x()))
    axes = [a % rank for a in c.integers(3, "axes") or range(len(starts))]
    if set(c.integers(4, "steps") or [1]) != {1}:
        raise c.refusal("its step is not 1")
    before, after = [0] * rank, [0] * rank
    for axis, start in zip(axes, starts, strict=True):
        whole, part = c.sizes(c.x(), [axis])[0], c.sizes(c.y, [axis])[0]
        before[axis] = min(max(start + whole if start < 0 else start, 0), whole)
        after[axis] = whole - part - before[axis]
    return [c.op.Pad(g, c.ints(*before, *after))]


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


def global_average_pool(c: Context, g: str) -> Cotangents:
    """`y = mean of x over the n cells of a feature map`: dx = g / n, repeated."""
    axes = list(range(2, len(c.shape(c.x()))))
    n = float(np.prod(c.sizes(c.x(), axes)))
    return [_spread(c, c.op.Mul(g, c.like(1 / n)), axes)]


# Sliding windows


def _spatial(c: Context) -> list[int]:
    return c.sizes(c.x(), range(2, len(c.shape(c.x()))))


def _untouched(c: Context, w: Window) -> list[int]:
    """How many cells at the end of x no window covers, per axis; negative where windows reach over it."""
    cells = c.sizes(c.y, range(2, len(c.shape(c.y))))
    parts = zip(_spatial(c), cells, w.stride, w.reach, w.begin, w.end, strict=True)
    return [n + b + e - (m - 1) * s - r - 1 for n, m, s, r, b, e in parts]


def conv(c: Context, g: str) -> Cotangents:
    """`y = W * x + b`, * the convolution: dx = its transpose on g by the very same W, padded to the size of x."""
    c.only(0)
    w = c.window()
    dx = c.op.ConvTranspose(
        g,
        c.x(1),
        group=c.attribute("group", 1),
        kernel_shape=w.kernel,
        strides=w.stride,
        dilations=w.dilation,
        pads=w.begin + w.end,
        output_padding=_untouched(c, w),
    )
    return [dx]


def conv_transpose(c: Context, g: str) -> Cotangents:
    """`y = the transposed convolution of x by W`: dx = W * g, * the convolution, by the same W."""
    c.only(0)
    if c.attribute("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in c.attributes:
        raise c.refusal("its padding is automatic")
    w = c.window()
    dx = c.op.Conv(
        g,
        c.x(1),
        group=c.attribute("group", 1),
        kernel_shape=w.kernel,
        strides=w.stride,
        dilations=w.dilation,
        pads=w.begin + w.end,
    )
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

    n differs at the edges where padding is not counted, or where a window reaches over the end (ceil mode).
    """
    w = _pooling(c)
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


def interpolation(node: NodeProto, graph: Graph, axis: int) -> Array | None:
    """The matrix [outputs, inputs] by which a Resize acts along an axis: its answer to the identity.

    None where it leaves the axis as it is. Raises `UnsupportedOperator` for a crop or an unknown size.
    """
    n, m = graph.shapes[node.input[0]][axis], graph.shapes[node.output[0]][axis]
    has = attributes(node)
    if n is None or m is None or has.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise UnsupportedOperator(node.op_type, "it crops, or a size is not known")
    if n == m:
        return None
    scales = graph.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    axes = [a % 4 for a in has.pop("axes", range(4))]
    has.pop("keep_aspect_ratio_policy", None)
    builder = Builder()
    if scales is None:
        target = ("", "", builder.constant(np.array([1, 1, n, m], np.int64)))
    else:
        scale = np.array([1, 1, 1, scales[axes.index(axis)]], np.float32)
        target = ("", builder.constant(scale), "")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, n, n])]
    output = builder.write("Resize", ("x", *target), 1, **has)[0]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, 1, n, m])]
    weights = list(builder.constants.values())
    made = helper.make_graph(builder.nodes, "resize", inputs, outputs, weights)
    imports = graph.model.opset_import or [helper.make_opsetid("", OPSET)]
    model: onnx.ModelProto = helper.make_model(made, opset_imports=imports, ir_version=8)
    answer = evaluate(model, {"x": np.eye(n, dtype=np.float32)[None, None]})[output]
    return np.asarray(answer[0, 0].T)


RULES: dict[str, Rule] = {
    "Abs": absolute,
    "Add": add,
    "ArgMax": zero,
    "ArgMin": zero,
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Cast": cast,
    "Ceil": zero,
    "Clip": clip,
    "Concat": concat,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Div": div,
    "Dropout": dropout,
    "Erf": erf,
    "Exp": exp,
    "Flatten": reshape,
    "Floor": zero,
    "Gemm": gemm,
    "GlobalAveragePool": global_average_pool,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Identity": identity,
    "LeakyRelu": leaky_relu,
    "Log": log,
    "MatMul": matmul,
    "MaxPool": max_pool,
    "Mul": mul,
    "Neg": neg,
    "Pad": pad,
    "Pow": power,
    "ReduceMean": reduce_mean,
    "ReduceSum": reduce_sum,
    "Relu": relu,
    "Reshape": reshape,
    "Resize": resize,
    "Round": zero,
    "Shape": zero,
    "Sigmoid": sigmoid,
    "Sign": zero,
    "Size": zero,
    "Slice": slices,
    "Softmax": softmax,
    "Split": split,
    "Sqrt": root,
    "Squeeze": reshape,
    "Sub": sub,
    "Tanh": tanh,
    "Transpose": transpose,
    "Unsqueeze": reshape,
}
