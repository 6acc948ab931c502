"""An ONNX graph as a table to read, and a builder to write one.

`Graph` answers who makes and who uses a tensor, and of what shape and type it is; `Builder` collects nodes and
constants under fresh names; `window` reads the sliding window of a convolution or a pooling. `run` executes a
graph on the CPU. Nothing here knows what the graph is for.

A shape is a tuple with None where a size is symbolic, as the batch always is.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from percept.runtime.session import Session

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]
WEIGHTS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
OPSET = 18  # the newest for which ONNX Runtime has a CUDA kernel of every operator used here


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python values; bytes become text."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {name: v.decode() if isinstance(v, bytes) else v for name, v in values.items()}


class Graph:
    """A table of a model's main graph.

    `producer` tensor -> node, `consumers` tensor -> nodes, `shapes` and `types` by tensor, `constants` the
    tensors whose value is stored, `fixed` the tensors that depend on no input of the graph.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        graph = onnx.shape_inference.infer_shapes(_light(model), data_prop=True).graph
        self.nodes: Sequence[NodeProto] = list(graph.node)
        self.outputs = [value.name for value in graph.output]
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in filter(None, node.input):
                self.consumers.setdefault(name, []).append(node)
        values = [*graph.input, *graph.value_info, *graph.output]
        self.shapes: dict[str, Shape] = {v.name: _shape(v) for v in values if _known(v)}
        self.types = {v.name: v.type.tensor_type.elem_type for v in values}
        self.constants: dict[str, TensorProto] = {t.name: t for t in model.graph.initializer}
        self.shapes |= {name: tuple(t.dims) for name, t in self.constants.items()}
        self.types |= {name: t.data_type for name, t in self.constants.items()}
        for node in self.nodes:
            if node.op_type == "Constant" and "value" in attributes(node):
                self.constants[node.output[0]] = attributes(node)["value"]
        self.fixed = set(self.constants)
        for node in self.nodes:
            if all(name in self.fixed for name in node.input if name):
                self.fixed.update(node.output)

    def value(self, name: str) -> Array | None:
        """The stored value of a tensor, or None where it is computed."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def dtype(self, name: str) -> np.dtype[Any]:
        """The NumPy type of a tensor; float32 where inference has not found it."""
        return helper.tensor_dtype_to_np_dtype(self.types.get(name) or TensorProto.FLOAT)

    def downstream(self, name: str) -> set[str]:
        """The tensor and everything that is computed from it."""
        found = {name}
        for node in self.nodes:
            if not found.isdisjoint(node.input):
                found.update(filter(None, node.output))
        return found


def _light(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its weights as inputs: shapes do not depend on them, and inference copies all that it gets."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = light.graph
    graph.name = "light"
    for kind in ("node", "input", "output", "value_info"):
        getattr(graph, kind).extend(getattr(model.graph, kind))
    for tensor in model.graph.initializer:
        if tensor.data_type in WEIGHTS and len(tensor.dims) > 1:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            graph.initializer.append(tensor)
    return light


def _known(value: ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.HasField("shape"))


def _shape(value: ValueInfoProto) -> Shape:
    sizes = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in sizes)


class Operators:
    """Writes a node by its operator's name: `op.Add(a, b)` gives the name of the sum."""

    def __init__(self, builder: "Builder") -> None:
        self._builder = builder

    def __getattr__(self, operator: str) -> Callable[..., str]:
        def write(*inputs: str, **attributes: Any) -> str:
            return self._builder.write(operator, inputs, 1, **attributes)[0]

        return write


class Builder:
    """Nodes and constants of a graph that is being written; no name is given twice, no constant stored twice."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self.op = Operators(self)
        self._taken = set(taken)
        self._stored: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count: Counter[str] = Counter()

    def fresh(self, hint: str) -> str:
        """A name that nothing has yet."""
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
        """The name of a constant of this value."""
        key = (str(value.dtype), value.shape, value.tobytes())
        if key not in self._stored:
            name = self._stored[key] = self.fresh("constant")
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return self._stored[key]


@dataclass(frozen=True)
class Window:
    """A sliding window along the spatial axes: the padding is explicit, `begin` before and `end` after."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """How far the last tap of the window lies from its first."""
        return tuple(d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True))


def window(node: NodeProto, graph: Graph) -> Window:
    """The window of a convolution or pooling; automatic padding is resolved by the sizes of the input.

    Raises `ValueError` where these would be needed and are not known.
    """
    has = attributes(node)
    weights = graph.shapes.get(node.input[1], ())[2:] if len(node.input) > 1 else ()
    kernel = tuple(int(k) for k in has.get("kernel_shape") or [k or 0 for k in weights])
    stride = tuple(has.get("strides") or [1] * len(kernel))
    dilation = tuple(has.get("dilations") or [1] * len(kernel))
    pads = tuple(has.get("pads") or [0] * (2 * len(kernel)))
    rule = has.get("auto_pad", "NOTSET")
    if rule in ("SAME_UPPER", "SAME_LOWER"):
        sizes = graph.shapes[node.input[0]][2:]
        pads = _same(sizes, kernel, stride, dilation, lower=rule == "SAME_LOWER")
    return Window(kernel, stride, dilation, pads[: len(kernel)], pads[len(kernel) :])


def _same(
    sizes: Shape, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], lower: bool
) -> tuple[int, ...]:
    """The padding that gives ceil(size / stride) cells; the odd one goes to the end unless `lower`."""
    small, large = [], []
    for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        if n is None:
            raise ValueError("automatic padding of an input whose size is not known")
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        small.append(total // 2)
        large.append(total - total // 2)
    return tuple(large + small if lower else small + large)


def run(model: onnx.ModelProto | Path, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Execute a graph once on one thread of the CPU and return all its outputs by name.

    The same input gives the same bits. Raises `BundleError` for a graph that cannot be loaded, `InferenceError`
    for inputs that do not fit it.
    """
    opened = Session(model if isinstance(model, Path) else model.SerializeToString())
    return opened.run(feeds, list(opened.outputs))
