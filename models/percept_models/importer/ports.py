"""What goes into a file's network and what comes out of it: one picture, and one tensor.

Both are read from the graph's own words about its inputs and outputs, and refused with all that there is, so that the
person who has the file can choose.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import onnx
import onnx_ir as ir
from onnx import ModelProto, TensorProto, ValueInfoProto, helper
from onnx_ir.passes.common import RemoveUnusedNodesPass

from percept.errors import BundleError

Layout = Literal["NCHW", "NHWC"]
CHANNELS: dict[Layout, int] = {"NCHW": 1, "NHWC": 3}


class Picture(NamedTuple):
    """What a network takes: [N,3,height,width] or [N,height,width,3]."""

    layout: Layout
    height: int
    width: int


def picture(model: ModelProto, size: tuple[int, int] | None) -> tuple[Picture, int | None]:
    """What the only input takes, and its batch where that is fixed; the size is written into it."""
    if len(model.graph.input) != 1:
        listed = ", ".join(map(_described, model.graph.input)) or "none"
        raise BundleError(f"a network of one image is needed, and the inputs of this one are: {listed}")
    (image,) = model.graph.input
    sizes = sizes_of(image)
    layout = next((name for name, axis in CHANNELS.items() if len(sizes) == 4 and sizes[axis] == 3), None)
    if layout is None or image.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise BundleError(
            f"the input {_described(image)} is no picture of three channels in float32, [N,3,H,W] or [N,H,W,3]: "
            "export the network with such an input"
        )
    axes = (2, 3) if layout == "NCHW" else (1, 2)
    stated = [sizes[axis] for axis in axes]
    if size is None and not all(stated):
        raise BundleError(f"the input {_described(image)} leaves height and width open: say which with --size")
    height, width = size or stated
    if any(a and a != b for a, b in zip(stated, (height, width), strict=True)):
        raise BundleError(f"the network takes pictures of {by(stated)} and no other, not of {height}x{width}")
    fixed = sizes[0] or None
    for axis, value in zip((0, *axes), (fixed or 1, height, width), strict=True):
        image.type.tensor_type.shape.dim[axis].dim_value = value
    return Picture(layout, height, width), fixed


def only(model: ModelProto, output: str | None) -> ModelProto:
    """The model with one output, and what it is made of."""
    chosen = helper.make_empty_tensor_value_info(_asked(model, output))
    del model.graph.output[:], model.graph.value_info[:]
    model.graph.output.append(chosen)
    graph = ir.from_proto(model)
    graph.graph.sort()
    RemoveUnusedNodesPass()(graph)
    return ir.to_proto(graph)


def _asked(model: ModelProto, output: str | None) -> str:
    """The name of the tensor that is asked for, or of the only output."""
    outputs = [value.name for value in model.graph.output]
    if output in {name for node in model.graph.node for name in node.output if name}:
        return str(output)
    if output is None and len(outputs) == 1:
        return str(outputs[0])
    found = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
    listed = f"the outputs are {', '.join(map(_described, found)) or 'none'}"
    if output is None:
        raise BundleError(f"the network has {len(outputs)} outputs and one is needed: --output NAME picks it; {listed}")
    raise BundleError(f"the graph has no tensor {output!r}; {listed}")


def sizes_of(value: ValueInfoProto) -> list[int]:
    """The sizes of an input or output, 0 where one is open."""
    return [max(d.dim_value, 0) for d in value.type.tensor_type.shape.dim]


def _described(value: ValueInfoProto) -> str:
    kind = value.type.tensor_type
    sizes = ",".join(str(size or "?") for size in sizes_of(value))
    return f"{value.name} {TensorProto.DataType.Name(kind.elem_type).lower()} [{sizes}]"


def by(size: Sequence[int]) -> str:
    """A size (height, width) for a person to read."""
    return "x".join(str(n or "?") for n in size)
