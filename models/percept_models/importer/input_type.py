"""The type of a file's image: an input of another type than float32 becomes float32.

Trunks give networks float32. `cast_input` puts a Cast to the file's own type in front, so that the model still computes
what the file does; `remove_input_cast` removes it where a uint8 image is only moved before it is cast to float32 or
dequantized: pixels are the same in both types, and a Cast to integers would end the gradients.
"""

from math import prod

from onnx import ModelProto, NodeProto, TensorProto, helper

# Operators that move the elements of their first input and compute nothing.
# fmt: off
MOVES = frozenset({
    "DepthToSpace", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
})
# fmt: on


def cast_input(model: ModelProto) -> None:
    """Make the only input float32, in place; a Cast gives its consumers the type that it had."""
    (image,) = model.graph.input
    kind = image.type.tensor_type.elem_type
    if kind == TensorProto.FLOAT:
        return
    cast = f"{image.name}.cast"
    for node in model.graph.node:
        node.input[:] = [cast if name == image.name else name for name in node.input]
    image.type.tensor_type.elem_type = TensorProto.FLOAT
    model.graph.node.insert(0, helper.make_node("Cast", [image.name], [cast], to=kind))


def remove_input_cast(model: ModelProto) -> None:
    """Remove the Cast of a uint8 image in front of the network, in place.

    It stays unless the image is only moved before nodes that cast it, or dequantize it by one scale.
    """
    (image,) = model.graph.input
    first = next((node for node in model.graph.node if image.name in node.input), None)
    if first is None or first.op_type != "Cast" or helper.get_node_attr_value(first, "to") != TensorProto.UINT8:
        return
    moved, dequantizers = {first.output[0]}, list[NodeProto]()
    scalars = {tensor.name for tensor in model.graph.initializer if prod(tensor.dims) == 1}
    for node in model.graph.node:
        used = moved.intersection(node.input)
        if used and node.op_type in MOVES and moved.isdisjoint(node.input[1:]):
            moved.update(node.output)
        elif used and node.op_type == "DequantizeLinear" and node.input[1] in scalars:
            dequantizers.append(node)
        elif used and node.op_type not in ("Cast", "Shape"):
            return
    if moved.isdisjoint(output.name for output in model.graph.output):
        first.op_type = "Identity"
        del first.attribute[:], model.graph.value_info[:]
        for node in dequantizers:
            _dequantize(model, node)


def _dequantize(model: ModelProto, node: NodeProto) -> None:
    """Write a DequantizeLinear of a float32 image as (x - zero point) * scale."""
    x, scale, *zero = node.input
    if any(zero):
        (y,), position = node.output, list(model.graph.node).index(node)
        model.graph.node.insert(position, helper.make_node("Sub", [x, f"{y}.zero"], [f"{y}.centred"]))
        model.graph.node.insert(position, helper.make_node("Cast", zero, [f"{y}.zero"], to=TensorProto.FLOAT))
        x = f"{y}.centred"
    node.CopyFrom(helper.make_node("Mul", [x, scale], node.output))
