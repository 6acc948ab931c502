"""What a rule of reverse mode may know of its node, and how it refuses one.

In the equations of all rules x is the input, y the output, g = dL/dy, dx = dL/dx, and * between tensors is
elementwise. `unbroadcast` undoes NumPy's broadcasting, `reshaped` a change of shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from percept_models.graph.errors import UnsupportedOperator
from percept_models.graph.reader import Array, Builder, Graph, Operators, Shape, Window, attributes, window

Cotangents = Sequence[str | None]


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


def zeros_like(c: Context, name: str) -> str:
    """Zeros in the shape and type of a tensor."""
    kind = helper.np_dtype_to_tensor_dtype(c.graph.dtype(name))
    return c.op.ConstantOfShape(c.op.Shape(name), value=helper.make_tensor("zero", kind, [1], [0]))


def mean(c: Context, x: str, axes: Sequence[int], n: int) -> str:
    """The mean over axes with n cells, which are kept with size 1."""
    return c.op.Mul(c.op.ReduceSum(x, c.ints(*axes), keepdims=1), c.like(1 / n))
