"""Quantized networks: pairs of QuantizeLinear and DequantizeLinear (QDQ) around operators, as static quantizers write.

A pair rounds its input to integers and returns floats (Jacob et al. 2017, arXiv:1712.05877): its derivative is 0. The
trunk of a bundle rounds too, so that it computes what the file computes. The tails are built from the same network
without rounding, as those of every int8 bundle: there the derivative of a pair is 1 inside the range of its integers
and 0 outside (the straight-through estimator; Bengio et al. 2013, arXiv:1308.3432).
"""

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from percept_models.graph.builder import Builder
from percept_models.graph.execution import run
from percept_models.graph.reader import Array, Graph
from percept_models.graph.subgraph import remove_unused, required_nodes

QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def dequantize_weights(model: ModelProto) -> ModelProto:
    """Return the model with the weights that it stores as integers stored as the floats that they stand for."""
    graph = Graph(model)
    chained = set[str]()
    for node in graph.nodes:
        if node.output[0] in graph.foldable and (node.op_type in QUANTIZERS or not chained.isdisjoint(node.input)):
            chained.update(node.output)
    used = {name for node in graph.nodes if node.output[0] not in graph.foldable for name in node.input}
    weights = chained & used
    return _with_constants(model, _evaluate(graph, weights)) if weights else model


def clip_activations(model: ModelProto) -> ModelProto | None:
    """Return a copy with a Clip to the range of the integers instead of each pair; None where it has no pair.

    Only pairs with one stored scale and zero point are replaced. Every tensor between two operators keeps its name.
    """
    graph = Graph(model)
    ranges = {node.output[0]: _pair_range(graph, node) for node in graph.nodes if node.op_type == "DequantizeLinear"}
    pairs = {name: limits for name, limits in ranges.items() if limits}
    if not pairs:
        return None
    copy = ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        name = node.output[0]
        if name in pairs:
            limits = [numpy_helper.from_array(value, f"{name}.limit.{i}") for i, value in enumerate(pairs[name])]
            inputs = [graph.producer[node.input[0]].input[0], *(limit.name for limit in limits)]
            node.CopyFrom(helper.make_node("Clip", inputs, [name]))
            copy.graph.initializer.extend(limits)
    return remove_unused(copy)


def restore_rounding(trunk: ModelProto, quantized: ModelProto) -> ModelProto:
    """Return a copy of a trunk without rounding in which activations are rounded as by the pairs of the quantized one.

    The rounding is written as s * clip(round(x / s)), which is exactly what a pair computes. ONNX Runtime's optimizers
    would replace pairs by kernels that also round the weights, or that saturate on CPUs without VNNI.
    """
    graph, builder = Graph(quantized), Builder([tensor.name for tensor in trunk.graph.initializer])
    copy = ModelProto()
    copy.CopyFrom(trunk)
    for node in trunk.graph.node:
        pair = graph.producer.get(node.output[0])
        if node.op_type != "Clip" or pair is None or pair.op_type != "DequantizeLinear":
            builder.nodes.append(node)
            continue
        scale = _parameters(graph, pair)[0].astype(np.float32).reshape(())
        limits = [builder.constant(np.round(value / scale)) for value in _pair_range(graph, pair) or ()]
        levels = builder.op.Clip(builder.op.Round(builder.op.Div(node.input[0], builder.constant(scale))), *limits)
        builder.nodes.append(helper.make_node("Mul", [levels, builder.constant(scale)], node.output))
    del copy.graph.node[:]
    copy.graph.node.extend(builder.nodes)
    copy.graph.initializer.extend(builder.constants.values())
    return remove_unused(copy)


def _pair_range(graph: Graph, node: NodeProto) -> tuple[Array, Array] | None:
    """Return the least and the greatest float that a pair can give, by its DequantizeLinear; None for anything else."""
    before, integers = graph.producer.get(node.input[0]), graph.dtype(node.input[0])
    if before is None or before.op_type != "QuantizeLinear" or integers.kind not in "iu":
        return None
    (scale, zero), (other_scale, other_zero) = _parameters(graph, before), _parameters(graph, node)
    same = np.array_equal(scale, other_scale) and np.array_equal(zero, other_zero)
    if not same or scale.size != 1:
        return None
    info = np.iinfo(integers)
    low, high = ((np.float32(end) - zero.astype(np.float32)) * scale for end in (info.min, info.max))
    return np.asarray(low, np.float32).reshape(()), np.asarray(high, np.float32).reshape(())


def _parameters(graph: Graph, node: NodeProto) -> tuple[Array, Array]:
    """Return the scale and the zero point of a node; NaN, which equals nothing, where they are computed."""
    scale, zero = (graph.value(name) if name else np.zeros(()) for name in [*node.input[1:], ""][:2])
    unknown = np.full((), np.nan)
    return unknown if scale is None else scale, unknown if zero is None else zero


def _evaluate(graph: Graph, names: set[str]) -> dict[str, Array]:
    """Return the values of tensors that depend on no input."""
    nodes = list(required_nodes([n for n in graph.nodes if n.output[0] in graph.foldable], names))
    inputs = {name for node in nodes for name in node.input}
    stored = [tensor for tensor in graph.model.graph.initializer if tensor.name in inputs]
    outputs = [helper.make_empty_tensor_value_info(name) for name in sorted(names)]
    model = helper.make_model(
        helper.make_graph(nodes, "constants", [], outputs, stored),
        opset_imports=graph.model.opset_import,
        ir_version=graph.model.ir_version,
    )
    return run(model, {})


def _with_constants(model: ModelProto, values: Mapping[str, Array]) -> ModelProto:
    """Return a copy in which tensors are stored that were computed."""
    copy = ModelProto()
    copy.CopyFrom(model)
    kept = [node for node in copy.graph.node if values.keys().isdisjoint(node.output)]
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    copy.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    return remove_unused(copy)
