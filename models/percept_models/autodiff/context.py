"""`Context`: what a reverse-mode rule knows of its node, and functions that several rules share.

The contract of a rule and the letters x, y and g are explained in `rules.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from percept_models.autodiff.errors import UnsupportedOperator
from percept_models.graph.builder import Builder, Operators
from percept_models.graph.reader import Array, Graph, Shape, attributes
from percept_models.graph.window import Window, read_window

Cotangents = Sequence[str | None]


@dataclass(frozen=True)
class Context:
    """A node, its graph and the builder of its derivative; `needs_grad` holds the inputs to differentiate."""

    node: NodeProto
    graph: Graph
    builder: Builder
    needs_grad: frozenset[int]

    @property
    def op(self) -> Operators:
        """Adds a node to the builder: `c.op.Add(a, b)`."""
        return self.builder.op

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the node as Python values."""
        return attributes(self.node)

    def attribute(self, name: str, default: Any) -> Any:
        """Return one attribute, or its default."""
        return self.attributes.get(name, default)

    def x(self, i: int = 0) -> str:
        """Return the name of input i; empty where it is left out."""
        inputs: Sequence[str] = self.node.input
        return inputs[i] if i < len(inputs) else ""

    @property
    def y(self) -> str:
        """The name of the first output."""
        outputs: Sequence[str] = self.node.output
        return outputs[0]

    def shape(self, name: str) -> Shape:
        """Return the shape of a tensor, with None where a size is symbolic."""
        if name not in self.graph.shapes:
            raise self.unsupported(f"the shape of {name} is not known")
        return self.graph.shapes[name]

    def sizes(self, name: str, axes: Sequence[int]) -> list[int]:
        """Return the sizes of a tensor along some axes, which must be static."""
        found = [self.shape(name)[axis] for axis in axes]
        if None in found:
            raise self.unsupported(f"the size of {name} is not known")
        return [size for size in found if size is not None]

    def value(self, i: int) -> Array:
        """Return the value of input i, which must be stored."""
        value = self.graph.value(self.x(i))
        if value is None:
            raise self.unsupported(f"input {i} is computed")
        return value

    def integers(self, i: int, attribute: str) -> list[int] | None:
        """Return integers that newer operators take as input i and older ones as an attribute."""
        if self.x(i):
            return [int(v) for v in self.value(i).ravel()]
        return self.attributes.get(attribute)

    def ints(self, *values: int | None) -> str:
        """Return the name of a constant int64 vector; None, at most once, becomes -1."""
        return self.builder.constant(np.array([-1 if v is None else v for v in values], np.int64))

    def constant(self, value: Any, like: str | None = None) -> str:
        """Return the name of a constant of the same type as the tensor `like`, by default the first input."""
        return self.builder.constant(np.asarray(value, self.graph.dtype(like or self.x())))

    def window(self) -> Window:
        """Return the sliding window of the node."""
        try:
            return read_window(self.node, self.graph)
        except ValueError as error:
            raise self.unsupported(str(error)) from error

    def grad_only_for(self, *inputs: int) -> None:
        """Raise `UnsupportedOperator` where an input other than these depends on the layer."""
        if not self.needs_grad <= set(inputs):
            raise self.unsupported(f"input {min(self.needs_grad - set(inputs))} depends on the layer")

    def unsupported(self, reason: str) -> UnsupportedOperator:
        """Return the error that says why this node has no derivative."""
        return UnsupportedOperator(self.node.op_type, reason)


def reshape_like(c: Context, g: str, name: str) -> str:
    """Reshape g to the shape of a tensor, which is read at run time if it has more than one symbolic size."""
    shape = c.shape(name)
    symbolic = shape.count(None) > 1 or (None in shape and 0 in shape)
    return c.op.Reshape(g, c.op.Shape(name) if symbolic else c.ints(*shape))


def unbroadcast(c: Context, g: str, name: str, kept: int = 0) -> str:
    """Sum g over the axes along which a tensor was broadcast to the shape of y, except the last `kept` axes."""
    shape, full = c.shape(name), c.shape(c.y)
    lead = len(full) - len(shape)
    small = (None,) * lead + shape
    axes = [a for a in range(len(full) - kept) if a < lead or (small[a] == 1 and full[a] != 1)]
    if axes:
        g = c.op.ReduceSum(g, c.ints(*axes), keepdims=1)
    return c.op.Squeeze(g, c.ints(*range(lead))) if lead else g


def zeros_like(c: Context, name: str) -> str:
    """Return zeros of the shape and type of a tensor."""
    dtype = helper.np_dtype_to_tensor_dtype(c.graph.dtype(name))
    return c.op.ConstantOfShape(c.op.Shape(name), value=helper.make_tensor("zero", dtype, [1], [0]))


def mean(c: Context, x: str, axes: Sequence[int], n: int) -> str:
    """Return the mean of x over axes with n cells in all; the axes are kept with size 1."""
    return c.op.Mul(c.op.ReduceSum(x, c.ints(*axes), keepdims=1), c.constant(1 / n))
