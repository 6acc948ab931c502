"""Tails: the part of a network after one layer, together with its derivative, as one ONNX model.

In comes a trunk's graph, the tensor A where it is cut and the logits y. Out comes a model with the inputs
`activations` A, `seed` s and the tensors that cross the cut, and the outputs `logits` and `gradients` =
d(sum of s * y)/dA. Tensors between the cut and the logits may have seeds of their own. The backward pass is in
`reverse.py`.
"""

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from percept.bundle.manifest import seed_name
from percept_models.autodiff.errors import UnsupportedOperator
from percept_models.autodiff.reverse import backpropagate, varying_tensors
from percept_models.graph.builder import OPSET, Builder
from percept_models.graph.reader import Graph, attributes
from percept_models.graph.receptive_field import SIZES
from percept_models.graph.subgraph import nodes_between, required_nodes

ACTIVATIONS, SEED, LOGITS, GRADIENTS = "activations", "seed", "logits", "gradients"


def build_tail(
    graph: Graph, cut: str, logits: str = LOGITS, seeds: Sequence[str] = ()
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Build the tail after the tensor `cut`; return it with the names of the trunk's tensors that cross the cut.

    Each tensor in `seeds`, all between the cut and the logits, gets an input `seed_name(tensor)` of its rank, whose
    sizes broadcast to its own; the sum of this seed times the tensor is differentiated too. Raises
    `UnsupportedOperator` where an operator on the path has no rule, or operators with a derivative of 0 are on every
    path, and `ValueError` where the logits do not depend on the cut.
    """
    if taken := {ACTIVATIONS, SEED, GRADIENTS, *map(seed_name, seeds)} & set(graph.shapes):
        raise ValueError(f"the names {sorted(taken)} are reserved for the tail")
    path = nodes_between(graph, cut, logits)
    builder = Builder([*graph.shapes, *graph.producer, *graph.constants])
    _recompute_sizes(builder, graph, cut, path)
    builder.nodes += [_copy(node) for node in path]
    op = builder.op
    cotangents = {logits: SEED} | {name: op.Expand(seed_name(name), op.Shape(name)) for name in seeds}
    varying = varying_tensors(graph, cut, path)
    gradient = backpropagate(builder, graph, varying, cotangents).get(cut)
    if gradient is None or not _depends_on(builder, gradient, SEED):
        raise _gradients_end(graph, path, varying, logits)
    if gradient == SEED:
        gradient = builder.op.Identity(gradient)
    foldable = [node for node in graph.nodes if node.output[0] in graph.foldable]
    nodes = list(required_nodes([*foldable, *builder.nodes], {logits, gradient}))
    used = {name for node in nodes for name in node.input if name}
    crossing = _crossing(graph, nodes, used - {cut})
    _rename(nodes, {cut: ACTIVATIONS, gradient: GRADIENTS, logits: LOGITS})
    stored = {t.name: t for t in graph.model.graph.initializer} | builder.constants
    weights = [tensor for name, tensor in stored.items() if name in used]
    inputs = [_describe(graph, ACTIVATIONS, cut), *(_describe(graph, name, name) for name in crossing)]
    inputs += [_describe(graph, SEED, logits), *(_describe_seed(graph, name) for name in seeds)]
    outputs = [_describe(graph, LOGITS, logits), _describe(graph, GRADIENTS, cut)]
    tail = helper.make_graph(nodes, "tail", inputs, outputs, weights)
    imports = graph.model.opset_import or [helper.make_opsetid("", OPSET)]
    return helper.make_model(tail, opset_imports=imports, ir_version=graph.model.ir_version), crossing


def _depends_on(builder: Builder, name: str, source: str) -> bool:
    """Return whether a tensor is, or is computed from, an input of the tail."""
    return name == source or any(source in node.input for node in required_nodes(builder.nodes, {name}))


def _gradients_end(graph: Graph, path: Sequence[NodeProto], varying: set[str], logits: str) -> UnsupportedOperator:
    """Return the error that names the operators on the path through which no gradient of the logits passes."""
    builder = Builder([*graph.shapes, *graph.producer, *graph.constants])
    builder.nodes += [_copy(node) for node in path]
    reached = backpropagate(builder, graph, varying, {logits: SEED}).keys()
    ends = {
        node.op_type
        for node in path
        if not varying.isdisjoint(node.input) and reached.isdisjoint(varying.intersection(node.input))
        if varying.isdisjoint(node.output) or not reached.isdisjoint(node.output)
    }
    return UnsupportedOperator(
        " or ".join(sorted(ends - SIZES)), "its result is a step function, whose derivative is 0"
    )


def _recompute_sizes(builder: Builder, graph: Graph, cut: str, path: Sequence[NodeProto]) -> None:
    """Add the nodes before the cut that compute the tensors from sizes alone that the path needs.

    Such tensors cannot cross the cut: the server could not split them by image. They are sizes such as [N, 512], or
    zeros of such a size, and N is measured at the cut, where it is the same.
    """
    computed = {cut}.union(*(node.output for node in path), graph.foldable)
    values = _computed_from_values(graph)

    def missing(names: Iterable[str], known: set[str]) -> set[str]:
        needed = {name for name in names if name and name not in known}
        return {name for name in needed if name not in values or not _has_batch_axis(graph, name)}

    wanted = {name for node in path for name in missing(node.input, computed)}
    found: list[NodeProto] = []
    for node in reversed(graph.nodes):
        if wanted.isdisjoint(node.output) or node.output[0] in computed:
            continue
        wanted.difference_update(node.output)
        if node.op_type == "Shape" and None not in graph.shapes[node.input[0]][1:]:
            found += reversed(_shape_at_cut(builder, graph, cut, node))
        else:
            wanted.update(missing(node.input, graph.foldable))
            found.append(node)
    if not wanted:
        builder.nodes += reversed(found)


def _computed_from_values(graph: Graph) -> set[str]:
    """Return the inputs of the graph and the tensors that depend on their values, not only on their sizes."""
    found = {value.name for value in graph.model.graph.input}
    for node in graph.nodes:
        if node.op_type not in ("Shape", "Size") and not found.isdisjoint(node.input):
            found.update(node.output)
    return found


def _shape_at_cut(builder: Builder, graph: Graph, cut: str, node: NodeProto) -> list[NodeProto]:
    """Return nodes that compute the output of a Shape node of a tensor [N,...], with N measured at the cut."""
    given, shape = attributes(node), graph.shapes[node.input[0]]
    sizes = list(enumerate(shape))[given.get("start", 0) : given.get("end", len(shape))]
    if (0, None) not in sizes:
        stored = numpy_helper.from_array(np.array([size for _, size in sizes], np.int64))
        return [helper.make_node("Constant", [], node.output, value=stored)]
    batch = builder.fresh("batch")
    rest = builder.constant(np.array([size for _, size in sizes[1:]], np.int64))
    first = helper.make_node("Shape", [cut], [batch], start=0, end=1)
    return [first, helper.make_node("Concat", [batch, rest], node.output, axis=0)]


def _has_batch_axis(graph: Graph, name: str) -> bool:
    return graph.shapes.get(name, ())[:1] == (None,)


def _copy(node: NodeProto) -> NodeProto:
    """Return a copy of a node, to which a rule may add an output (the indices of a MaxPool)."""
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _crossing(graph: Graph, nodes: Sequence[NodeProto], used: set[str]) -> tuple[str, ...]:
    """Return the tensors that the tail uses but neither computes nor stores, in the trunk's order.

    Raises `UnsupportedOperator` where such a tensor has not one row for each image: the server could not split it.
    """
    computed = {name for node in nodes for name in node.output}
    crossing = [name for name in graph.shapes if name in used - computed and name not in graph.foldable]
    rows = _rows_per_image(graph)
    for name in crossing:
        if not _has_batch_axis(graph, name) or rows.get(name, 1) != 1:
            producer = graph.producer.get(name)
            raise UnsupportedOperator(
                producer.op_type if producer else name, "what bypasses the layer has not one row for each image"
            )
    return tuple(crossing)


def _rows_per_image(graph: Graph) -> dict[str, int]:
    """Return how many rows of a tensor belong to one image, where that is not one: 6 of [N*6], which was [N,2,3]."""
    rows: dict[str, int] = {}
    for node in graph.nodes:
        sources = [name for name in node.input if graph.shapes.get(name, ())[:1] == (None,)]
        count = max((rows.get(name, 1) for name in sources), default=1)
        for name in node.output:
            before, after = (graph.shapes.get(x, ())[1:] for x in (node.input[0] if node.input else "", name))
            if node.op_type == "Reshape" and sources and None not in (*before, *after):
                count = count * prod(size or 1 for size in before) // max(1, prod(size or 1 for size in after))
            if count != 1 and _has_batch_axis(graph, name):
                rows[name] = count
    return rows


def _rename(nodes: Iterable[NodeProto], names: dict[str, str]) -> None:
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _describe(graph: Graph, name: str, like: str) -> ValueInfoProto:
    """Describe an input or output with the shape and type of the trunk's tensor `like`; the batch is called N."""
    sizes = [size or "N" if axis == 0 else size for axis, size in enumerate(graph.shapes[like])]
    return helper.make_tensor_value_info(name, graph.types.get(like) or TensorProto.FLOAT, sizes)


def _describe_seed(graph: Graph, tensor: str) -> ValueInfoProto:
    """Describe the seed of an inner tensor: of its type and rank, with all sizes open."""
    sizes = [f"{seed_name(tensor)}.{axis}" for axis in range(len(graph.shapes[tensor]))]
    return helper.make_tensor_value_info(seed_name(tensor), graph.types.get(tensor) or TensorProto.FLOAT, sizes)
