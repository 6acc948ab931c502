"""Reverse mode on ONNX: from a trunk and a cut to the rest of the network with its derivative.

In comes a model, the name of a tensor where it is cut, and the name of its logits y; out goes the tail, a model
with the inputs `activations` A, `seed` s and the tensors that cross the cut, and the outputs `logits` and
`gradients` = d(sum of s * y)/dA. Other tensors on the way may have seeds of their own. How a single operator is
reversed is the business of `rules.py`.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from percept.bundle.manifest import seed_name
from percept_models.autodiff.context import Context
from percept_models.autodiff.rules import RULES, zero
from percept_models.graph.errors import UnsupportedOperator
from percept_models.graph.reader import OPSET, Builder, Graph, attributes

ACTIVATIONS, SEED, LOGITS, GRADIENTS = "activations", "seed", "logits", "gradients"


def tail(
    graph: Graph, cut: str, logits: str = LOGITS, seeds: Sequence[str] = ()
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The tail after the tensor `cut`, and the names of the trunk's tensors that cross the cut.

    Each of the tensors in `seeds`, between the cut and the logits, gets an input `seed_name` it, of its rank and of any
    sizes that broadcast to its own; the sum of it times the tensor is derived too. Raises `UnsupportedOperator` where
    an operator on the way has no rule, and `ValueError` where the logits do not depend on the cut.
    """
    if taken := {ACTIVATIONS, SEED, GRADIENTS, *map(seed_name, seeds)} & set(graph.shapes):
        raise ValueError(f"the names {sorted(taken)} are reserved for the tail")
    path = between(graph, cut, logits)
    builder = Builder([*graph.shapes, *graph.producer, *graph.constants])
    _resume(builder, graph, cut, path)
    builder.nodes += [_copy(node) for node in path]
    begun = {logits: SEED} | {name: seed_name(name) for name in seeds}
    gradient = reverse(builder, graph, varying(graph, cut, path), begun).get(cut)
    if gradient is None:
        raise ValueError(f"the logits do not vary with {cut!r}")
    if gradient == SEED:
        gradient = builder.op.Identity(gradient)
    kept = list(needed([*_fixed(graph), *builder.nodes], {logits, gradient}))
    used = {name for node in kept for name in node.input if name}
    crossing = _crossing(graph, kept, used - {cut, *begun.values()})
    _rename(kept, {cut: ACTIVATIONS, gradient: GRADIENTS, logits: LOGITS})
    shapes = {ACTIVATIONS: cut, GRADIENTS: cut, SEED: logits, LOGITS: logits}
    shapes |= {name: name for name in crossing}
    described = {name: _describe(graph, name, like) for name, like in shapes.items()}
    inputs = [described[name] for name in (ACTIVATIONS, *crossing, SEED)]
    inputs += [_anything(graph, name) for name in seeds]
    outputs = [described[LOGITS], described[GRADIENTS]]
    stored = {t.name: t for t in graph.model.graph.initializer} | builder.constants
    weights = [tensor for name, tensor in stored.items() if name in used]
    made = helper.make_graph(kept, "tail", inputs, outputs, weights)
    imports = graph.model.opset_import or [helper.make_opsetid("", OPSET)]
    return helper.make_model(made, opset_imports=imports, ir_version=graph.model.ir_version), crossing


def between(graph: Graph, cut: str, logits: str) -> list[NodeProto]:
    """The nodes through which the cut reaches the logits, in order."""
    behind = graph.downstream(cut)
    if logits not in behind or logits == cut:
        raise ValueError(f"{logits!r} is not computed from {cut!r}")
    dependent = [node for node in graph.nodes if not behind.isdisjoint(node.input)]
    return list(needed(dependent, {logits}))


def varying(graph: Graph, cut: str, path: Iterable[NodeProto]) -> set[str]:
    """The tensors on the path that vary with the values at the cut: sizes, indices and comparisons do not."""
    found = {cut}
    for node in path:
        if RULES.get(node.op_type) is not zero and not found.isdisjoint(node.input):
            found.update(name for name in node.output if graph.dtype(name).kind not in "biu")
    return found


def _resume(builder: Builder, graph: Graph, cut: str, path: Sequence[NodeProto]) -> None:
    """Write anew what the path needs from before the cut and has no batch axis, by what has: it can cross the cut.

    Sizes such as [N, 512] are measured at the cut, where N is the same.
    """
    made = {cut}.union(*(node.output for node in path), graph.fixed)
    wanted = {name for node in path for name in node.input if name and name not in made and not _rows(graph, name)}
    found: list[NodeProto] = []
    for node in reversed(graph.nodes):
        if wanted.isdisjoint(node.output) or node.output[0] in made:
            continue
        wanted.difference_update(node.output)
        if node.op_type == "Shape" and None not in graph.shapes[node.input[0]][1:]:
            found += reversed(_shape_of(builder, graph, cut, node))
        else:
            wanted.update(name for name in node.input if name and name not in graph.fixed and not _rows(graph, name))
            found.append(node)
    if not wanted:
        builder.nodes += reversed(found)


def _shape_of(builder: Builder, graph: Graph, cut: str, node: NodeProto) -> list[NodeProto]:
    """A node Shape of any tensor [N,...], measured at the cut."""
    has, shape = attributes(node), graph.shapes[node.input[0]]
    sizes = list(enumerate(shape))[has.get("start", 0) : has.get("end", len(shape))]
    if (0, None) not in sizes:
        stored = numpy_helper.from_array(np.array([size for _, size in sizes], np.int64))
        return [helper.make_node("Constant", [], node.output, value=stored)]
    batch = builder.fresh("batch")
    rest = builder.constant(np.array([size for _, size in sizes[1:]], np.int64))
    first = helper.make_node("Shape", [cut], [batch], start=0, end=1)
    return [first, helper.make_node("Concat", [batch, rest], node.output, axis=0)]


def _rows(graph: Graph, name: str) -> bool:
    """Whether a tensor has a batch axis, so that it can be cut into rows."""
    return graph.shapes.get(name, ())[:1] == (None,)


def reverse(builder: Builder, graph: Graph, wrt: set[str], cotangents: dict[str, str]) -> dict[str, str]:
    """Walk the builder's nodes backwards, add up cotangents, and return those of all tensors in `wrt`.

    `cotangents` says where the walk begins: tensor -> the name of its cotangent.
    """
    for node in reversed(builder.nodes.copy()):
        given = [cotangents.get(name) for name in node.output]
        if not any(given):
            continue
        if node.op_type not in RULES:
            raise UnsupportedOperator(node.op_type)
        wanted = frozenset(i for i, name in enumerate(node.input) if name in wrt)
        found = RULES[node.op_type](Context(node, graph, builder, wanted), *given)
        for name, cotangent in zip(node.input, found, strict=False):
            if cotangent is not None and name in wrt:
                known = cotangents.get(name)
                cotangents[name] = builder.op.Add(known, cotangent) if known else cotangent
    return cotangents


def _copy(node: NodeProto) -> NodeProto:
    """A copy that a rule may give another output (the indices of a MaxPool)."""
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _fixed(graph: Graph) -> list[NodeProto]:
    return [n for n in graph.nodes if n.output[0] in graph.fixed]


def needed(nodes: Sequence[NodeProto], wanted: set[str]) -> Iterable[NodeProto]:
    """The nodes without which the wanted tensors could not be computed, in their order."""
    wanted, kept = set(wanted), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(filter(None, node.input))
            kept.append(node)
    return reversed(kept)


def _crossing(graph: Graph, kept: Sequence[NodeProto], used: set[str]) -> tuple[str, ...]:
    """What the tail needs and neither computes nor stores, in the trunk's order.

    Raises `UnsupportedOperator` where such a tensor has no batch axis: it could not be cut into rows.
    """
    made = {name for node in kept for name in node.output}
    foreign = [name for name in graph.shapes if name in used - made and name not in graph.fixed]
    for name in foreign:
        if not _rows(graph, name):
            maker = graph.producer.get(name)
            raise UnsupportedOperator(maker.op_type if maker else name)
    return tuple(foreign)


def _rename(nodes: Iterable[NodeProto], names: dict[str, str]) -> None:
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _anything(graph: Graph, tensor: str) -> ValueInfoProto:
    """The seed of a tensor: of its type and rank, every size open."""
    sizes = [f"{seed_name(tensor)}.{axis}" for axis in range(len(graph.shapes[tensor]))]
    return helper.make_tensor_value_info(seed_name(tensor), graph.types.get(tensor) or TensorProto.FLOAT, sizes)


def _describe(graph: Graph, name: str, like: str) -> ValueInfoProto:
    """An input or output of the shape and type of the trunk's tensor `like`; the batch is called N."""
    sizes = [size or "N" if axis == 0 else size for axis, size in enumerate(graph.shapes[like])]
    return helper.make_tensor_value_info(name, graph.types.get(like) or TensorProto.FLOAT, sizes)
