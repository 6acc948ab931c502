"""The signature of a model: one image as its input, one tensor as its output.

Both are read from what the graph declares. A model without them is rejected with a list of the inputs or outputs that
it has, so that the user can choose.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import onnx
import onnx_ir as ir
from onnx import ModelProto, TensorProto, ValueInfoProto, helper
from onnx_ir.passes.common import RemoveUnusedNodesPass

from percept.errors import BundleError

Layout = Literal["NCHW", "NHWC"]
CHANNEL_AXIS: dict[Layout, int] = {"NCHW": 1, "NHWC": 3}
CHANNELS_FIRST, CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # the permutations from one layout to the other


class ImageInput(NamedTuple):
    """The images that a network takes: [N,3,height,width] or [N,height,width,3]."""

    layout: Layout
    height: int
    width: int


def read_image_input(model: ModelProto, size: tuple[int, int] | None) -> tuple[ImageInput, int | None]:
    """Read the only input, and its batch where that is fixed; write the size (height, width) and the batch into it.

    Raises `BundleError` where the model takes no single float32 image of three channels, or the size is missing or
    another one.
    """
    if len(model.graph.input) != 1:
        listed = ", ".join(map(_describe, model.graph.input)) or "none"
        raise BundleError(f"the network must have one input, an image; its inputs are: {listed}")
    (image,) = model.graph.input
    sizes = dimensions(image)
    layout = next((name for name, axis in CHANNEL_AXIS.items() if len(sizes) == 4 and sizes[axis] == 3), None)
    if layout is None or image.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise BundleError(
            f"the input {_describe(image)} is not an image of three channels in float32, [N,3,H,W] or [N,H,W,3]: "
            "export the network with such an input"
        )
    axes = (2, 3) if layout == "NCHW" else (1, 2)
    stated = [sizes[axis] for axis in axes]
    if size is None and not all(stated):
        raise BundleError(f"the input {_describe(image)} leaves height and width open: set them with --size")
    height, width = size or stated
    if any(a and a != b for a, b in zip(stated, (height, width), strict=True)):
        raise BundleError(f"the network takes images of {format_size(stated)} only, not of {height}x{width}")
    fixed = sizes[0] or None
    for axis, value in zip((0, *axes), (fixed or 1, height, width), strict=True):
        image.type.tensor_type.shape.dim[axis].dim_value = value
    return ImageInput(layout, height, width), fixed


def select_output(model: ModelProto, output: str | None) -> ModelProto:
    """Return the model with one output and only the nodes that it needs.

    `output` names an output or any other tensor. Raises `BundleError` where there is no such tensor, or where it is
    None and the model has several outputs.
    """
    selected = helper.make_empty_tensor_value_info(_output_name(model, output))
    del model.graph.output[:], model.graph.value_info[:]
    model.graph.output.append(selected)
    graph = ir.from_proto(model)
    graph.graph.sort()
    RemoveUnusedNodesPass()(graph)
    return ir.to_proto(graph)


def _output_name(model: ModelProto, output: str | None) -> str:
    outputs = [value.name for value in model.graph.output]
    if output in {name for node in model.graph.node for name in node.output if name}:
        return str(output)
    if output is None and len(outputs) == 1:
        return str(outputs[0])
    found = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
    listed = f"the outputs are {', '.join(map(_describe, found)) or 'none'}"
    if output is None:
        raise BundleError(f"the network has {len(outputs)} outputs: select one with --output NAME; {listed}")
    raise BundleError(f"the graph has no tensor {output!r}; {listed}")


def dimensions(value: ValueInfoProto) -> list[int]:
    """Return the sizes of an input or output, with 0 where one is open."""
    return [max(d.dim_value, 0) for d in value.type.tensor_type.shape.dim]


def format_size(size: Sequence[int]) -> str:
    """Format a size (height, width) as `224x224`; an open one is `?`."""
    return "x".join(str(n or "?") for n in size)


def _describe(value: ValueInfoProto) -> str:
    kind = value.type.tensor_type
    sizes = ",".join(str(size or "?") for size in dimensions(value))
    return f"{value.name} {TensorProto.DataType.Name(kind.elem_type).lower()} [{sizes}]"
