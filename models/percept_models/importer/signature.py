"""The signature of a model: one image as its input, one tensor as its output.

Both are read from what the graph declares. A model without them is rejected with a list of the inputs or outputs that
it has, so that the user can choose.
"""

from collections.abc import Sequence
from itertools import product
from typing import Literal, NamedTuple

import onnx
import onnx_ir as ir
from onnx import ModelProto, TensorProto, ValueInfoProto, helper
from onnx_ir.passes.common import RemoveUnusedNodesPass

from percept.errors import BundleError

ImageLayout = Literal["NCHW", "NHWC"]
CHANNEL_AXIS: dict[ImageLayout, int] = {"NCHW": 1, "NHWC": 3}
CHANNELS_FIRST, CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # the permutations from one layout to the other
CHANNEL_COUNTS = (3, 1, 4)  # of images; the first one in doubt
# The types that an input may have.
TYPES = (TensorProto.FLOAT, TensorProto.UINT8, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


class ImageInput(NamedTuple):
    """The images that a network takes: [N,channels,height,width] or [N,height,width,channels].

    A network that takes `pixels`, uint8, normalizes them itself.
    """

    layout: ImageLayout
    height: int
    width: int
    channels: int = 3
    pixels: bool = False


def read_image_input(model: ModelProto, size: tuple[int, int] | None) -> tuple[ImageInput, int | None]:
    """Read the only input, and its batch where that is fixed; write the size (height, width) and the batch into it.

    Raises `BundleError` where the model takes no single image of one of `TYPES` with one, three or four channels, or
    the size is missing or another one.
    """
    if len(model.graph.input) != 1:
        listed = ", ".join(map(_describe, model.graph.input)) or "none"
        raise BundleError(f"the network must have one input, an image; its inputs are: {listed}")
    (image,) = model.graph.input
    sizes = dimensions(image)
    kind, possible = image.type.tensor_type.elem_type, product(CHANNEL_COUNTS, CHANNEL_AXIS.items())
    found = next(((name, c) for c, (name, axis) in possible if len(sizes) == 4 and sizes[axis] == c), None)
    if found is None or kind not in TYPES:
        raise BundleError(
            f"the input {_describe(image)} is not an image of 1, 3 or 4 channels, [N,C,H,W] or [N,H,W,C], in float32, "
            "float16, float64 or uint8: export the network with such an input"
        )
    layout, channels = found
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
    return ImageInput(layout, height, width, channels, kind == TensorProto.UINT8), fixed


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
