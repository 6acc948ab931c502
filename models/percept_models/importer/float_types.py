"""Convert the float16, bfloat16 and float64 tensors of a file to float32, the type in which bundles are computed.

Weights in float16 and bfloat16 are exact in float32, results are more accurate than those of the file: by as much as
the file's own type rounds them. `check_float32` compares the difference with exactly that rounding.
"""

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from percept.errors import BundleError
from percept_models.graph.reader import Array, Graph
from percept_models.importer.equivalence import TOLERANCE, greatest_error, run_each
from percept_models.importer.model_file import iterate_messages

NAMES: dict[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
ROUNDED = (TensorProto.FLOAT16, TensorProto.BFLOAT16)  # types less accurate than float32
TYPE_ATTRIBUTES = frozenset({"to", "dtype"})  # of Cast; of operators that make tensors


def to_float32(model: ModelProto) -> tuple[ModelProto, list[str]]:
    """Return a copy in which every floating-point tensor is float32, and the names of the types that were converted."""
    converted = ModelProto()
    converted.CopyFrom(model)
    found = set[int]()
    for tensor in iterate_messages(converted.graph, TensorProto):
        if tensor.data_type in NAMES:
            found.add(tensor.data_type)
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for attribute in iterate_messages(converted.graph, AttributeProto):
        if attribute.name in TYPE_ATTRIBUTES and attribute.i in NAMES:
            found.add(attribute.i)
            attribute.i = TensorProto.FLOAT
    for kind in iterate_messages(converted.graph, TypeProto.Tensor):
        if kind.elem_type in NAMES:
            found.add(kind.elem_type)
            kind.elem_type = TensorProto.FLOAT
    return converted, sorted(NAMES[data_type] for data_type in found)


def check_float32(model: ModelProto, converted: ModelProto, images: Array, n: int) -> str:
    """Compare a model whose batch is n with itself in float32; return the difference in words.

    The difference may be as great as the change that rounding every result to the file's type makes. Raises
    `BundleError` where it is greater. Where ONNX Runtime has no kernels on the CPU for the file's types, as for
    bfloat16, nothing can be compared, and the words say so.
    """
    found = run_each(converted, images, n)
    try:
        expected = run_each(model, images, n)
    except BundleError:
        return "ONNX Runtime cannot run the file itself on a CPU, so that this could not be compared"
    error = greatest_error(found, expected)
    limit = max(TOLERANCE, greatest_error(found, run_each(_with_rounding(model, converted), images, n)))
    if not error <= limit:
        raise BundleError(
            f"the network computes something else in float32 than in the types of the file: a number differs by "
            f"{error:.1e} of the greatest one, which is more than rounding explains ({limit:.1e})"
        )
    return f"its output changes by {error:.0e} of the greatest number"


def _with_rounding(model: ModelProto, converted: ModelProto) -> ModelProto:
    """Return the converted model with every result rounded to the type that it has in the file."""
    types, rounded = Graph(model).types, ModelProto()
    rounded.CopyFrom(converted)
    del rounded.graph.node[:]
    for node in converted.graph.node:
        names = [name for name in node.output if types.get(name) in ROUNDED]
        before = NodeProto()
        before.CopyFrom(node)
        before.output[:] = [f"{name}.exact" if name in names else name for name in node.output]
        rounded.graph.node.append(before)
        for name in names:
            narrow = helper.make_node("Cast", [f"{name}.exact"], [f"{name}.rounded"], to=types[name])
            rounded.graph.node.append(narrow)
            rounded.graph.node.append(helper.make_node("Cast", narrow.output, [name], to=TensorProto.FLOAT))
    return rounded
