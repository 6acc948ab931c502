"""`Builder`: write an ONNX graph node by node.

In come operators, their inputs and constants; out come `nodes` and `constants` under unique names.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from percept_models.graph.reader import Array

OPSET = 18  # the newest for which ONNX Runtime has a CUDA kernel of every operator used here


class Operators:
    """Adds a node by the name of its operator: `op.Add(a, b)` returns the name of the sum."""

    def __init__(self, builder: "Builder") -> None:
        self._builder = builder

    def __getattr__(self, operator: str) -> Callable[..., str]:
        def write(*inputs: str, **attributes: Any) -> str:
            return self._builder.write(operator, inputs, 1, **attributes)[0]

        return write


class Builder:
    """The nodes and constants of a graph under construction; equal constants are stored once.

    New names begin with `d.` and avoid those in `taken`.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self.op = Operators(self)
        self._taken = set(taken)
        self._stored: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count: Counter[str] = Counter()

    def fresh(self, hint: str) -> str:
        """Return a name that is not in use, and reserve it."""
        while True:
            self._count[hint] += 1
            name = f"d.{hint}.{self._count[hint]}"
            if name not in self._taken:
                self._taken.add(name)
                return name

    def write(self, operator: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """Add a node with `count` outputs and return their names."""
        outputs = [self.fresh(operator) for _ in range(count)]
        self.nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
        return outputs

    def constant(self, value: Array) -> str:
        """Return the name of a constant with this value, type and shape; store it if it is new."""
        key = (str(value.dtype), value.shape, value.tobytes())
        if key not in self._stored:
            name = self._stored[key] = self.fresh("constant")
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return self._stored[key]
