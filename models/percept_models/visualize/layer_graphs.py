"""The ONNX graphs of a `LayerResponse`: a trunk up to a layer at another size, and changes at its end."""

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from percept_models.autodiff.tail import LOGITS, SEED
from percept_models.graph.reader import Array, Graph
from percept_models.graph.subgraph import required_nodes

LEAK = 0.1  # the slope of the leaky ReLU below its threshold
THRESHOLD, CENTRED, LEAKY = "v.threshold", "v.centred", "v.leaky"  # tensors of `add_leaky_relu`
OUTPUT, TARGET = "v.output", "v.target"  # tensors of `seed_with_difference`


def truncate_trunk(trunk: ModelProto, layer: str, size: tuple[int, int]) -> ModelProto:
    """A copy of the trunk up to a layer, for pixels of another size (H, W)."""
    model = ModelProto()
    model.CopyFrom(trunk)
    graph = model.graph
    nodes = list(required_nodes(graph.node, {layer}))
    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = size[0]
    graph.input[0].type.tensor_type.shape.dim[2].dim_value = size[1]
    graph.output.append(helper.make_tensor_value_info(layer, TensorProto.FLOAT, None))
    return model


def final_activation(graph: Graph, layer: str) -> list[NodeProto]:
    """The nodes of the ReLU at the end of a layer, bounded or not, in order; empty where it ends otherwise."""
    node = graph.producer[layer]
    if node.op_type not in ("Relu", "Clip") or not {*node.input[1:]} <= {"", *graph.constants}:
        return []
    return [*final_activation(graph, node.input[0]), node]


def add_leaky_relu(model: ModelProto, tensor: str, threshold: Array) -> Graph:
    """A copy of the model that ends in `LEAKY`, a leaky ReLU of a tensor minus each channel's threshold [C]."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.initializer.append(numpy_helper.from_array(threshold[:, None, None].astype(np.float32), THRESHOLD))
    copy.graph.node.append(helper.make_node("Sub", [tensor, THRESHOLD], [CENTRED]))
    copy.graph.node.append(helper.make_node("LeakyRelu", [CENTRED], [LEAKY], alpha=LEAK))
    return Graph(copy)


def seed_with_difference(tail: ModelProto, activation: list[NodeProto], graph: Graph) -> ModelProto:
    """A copy of a tail whose seed is computed inside: its logits after an activation, `OUTPUT`, minus `TARGET`.

    `graph` holds the constants of the activation. `TARGET` takes the place of the input `SEED`, `OUTPUT` that of the
    output `LOGITS`.
    """
    model = ModelProto()
    model.CopyFrom(tail)
    nodes, output = _copy_chain(activation, LOGITS)
    nodes += [helper.make_node("Identity", [output], [OUTPUT]), helper.make_node("Sub", [OUTPUT, TARGET], [SEED])]
    known = {tensor.name for tensor in model.graph.initializer} | {""}
    for name in {name for node in activation for name in node.input[1:]} - known:
        model.graph.initializer.append(_named_constant(graph, name))
    position = 1 + next(i for i, node in enumerate(model.graph.node) if LOGITS in node.output)
    for node in reversed(nodes):
        model.graph.node.insert(position, node)
    next(value for value in model.graph.input if value.name == SEED).name = TARGET
    next(value for value in model.graph.output if value.name == LOGITS).name = OUTPUT
    return model


def _copy_chain(nodes: list[NodeProto], tensor: str) -> tuple[list[NodeProto], str]:
    """Copies of a chain of nodes whose first node takes the tensor, and the output of the last node."""
    copies = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[0], tensor = tensor, node.output[0]
        copies.append(copy)
    return copies, tensor


def _named_constant(graph: Graph, name: str) -> TensorProto:
    """A copy of a graph's constant with its name in the graph."""
    tensor = TensorProto()
    tensor.CopyFrom(graph.constants[name])
    tensor.name = name
    return tensor
