"""`Graph`: an ONNX model as lookup tables for analysis.

In comes a model; out come, for each tensor, the node that produces it, the nodes that consume it, its shape, its type
and its value where that is stored. This module does not know what the graph computes.

A shape is a tuple with None where a size is symbolic, as the batch always is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]
FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return the attributes of a node as Python values; bytes become text."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {name: v.decode() if isinstance(v, bytes) else v for name, v in values.items()}


class Graph:
    """Lookup tables of a model's main graph.

    `producer` maps a tensor to its node, `consumers` to its nodes; `shapes` and `types` hold what shape inference
    finds; `constants` holds the tensors with a stored value, `foldable` the names of all that depend on no input.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        graph = onnx.shape_inference.infer_shapes(_without_weights(model), data_prop=True).graph
        self.nodes: Sequence[NodeProto] = list(graph.node)
        self.outputs = [value.name for value in graph.output]
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.consumers = _consumers(self.nodes)
        values = [*graph.input, *graph.value_info, *graph.output]
        self.shapes: dict[str, Shape] = {v.name: _shape(v) for v in values if v.type.tensor_type.HasField("shape")}
        self.types = {v.name: v.type.tensor_type.elem_type for v in values}
        self.constants: dict[str, TensorProto] = {t.name: t for t in model.graph.initializer}
        self.shapes |= {name: tuple(t.dims) for name, t in self.constants.items()}
        self.types |= {name: t.data_type for name, t in self.constants.items()}
        for node in self.nodes:
            if node.op_type == "Constant" and "value" in attributes(node):
                self.constants[node.output[0]] = attributes(node)["value"]
        self.foldable = set(self.constants)
        for node in self.nodes:
            if all(name in self.foldable for name in node.input if name):
                self.foldable.update(node.output)

    def value(self, name: str) -> Array | None:
        """Return the stored value of a tensor, or None where it is computed."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the NumPy type of a tensor; float32 where inference has not found it."""
        return helper.tensor_dtype_to_np_dtype(self.types.get(name) or TensorProto.FLOAT)

    def downstream(self, name: str) -> set[str]:
        """Return the tensor and every tensor that is computed from it."""
        found = {name}
        for node in self.nodes:
            if not found.isdisjoint(node.input):
                found.update(filter(None, node.output))
        return found


def _consumers(nodes: Sequence[NodeProto]) -> dict[str, list[NodeProto]]:
    consumers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in filter(None, node.input):
            consumers.setdefault(name, []).append(node)
    return consumers


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its weights as inputs: no shape depends on them, and inference copies its argument."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = light.graph
    graph.name = "light"
    for kind in ("node", "input", "output", "value_info"):
        getattr(graph, kind).extend(getattr(model.graph, kind))
    for tensor in model.graph.initializer:
        if tensor.data_type in FLOAT_TYPES and len(tensor.dims) > 1:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            graph.initializer.append(tensor)
    return light


def _shape(value: ValueInfoProto) -> Shape:
    sizes = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in sizes)
