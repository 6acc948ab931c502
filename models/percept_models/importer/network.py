"""A bare `.onnx` file from anyone → a clean inference graph → with a `Preprocessing`, the trunk of a bundle.

`read` takes apart what ten years of exporters have left: weights among the inputs, old operators, a batch of one,
sizes computed at run time, a softmax at the end. It proves what it did: the new graph must give, for a batch of three
pictures, what the file gives for each alone. Where layers are and what the classes mean is not known here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import ModelProto, NodeProto, TensorProto, helper, inliner, numpy_helper, version_converter

from percept.bundle.manifest import IMAGE, Activation, Preprocessing
from percept.errors import BundleError
from percept_models.autodiff.reverse import LOGITS
from percept_models.graph.reader import OPSET
from percept_models.graph.simplify import simplify
from percept_models.importer import batch, output_head, ports
from percept_models.importer.equivalence import answers, pictures, prove
from percept_models.importer.model_file import IR_VERSION, first_line, load, messages, opset
from percept_models.importer.naming import CENTRED, FLIPPED, FLOATS, LAST, MEAN, ORDER, SCALED, STD, rename
from percept_models.importer.ports import Layout, by, sizes_of
from percept_models.sources.trunk import PIXELS

SHAPELESS = frozenset({"GroupNormalization"})  # shape inference has no word for what they give
CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})


@dataclass(frozen=True)
class Foreign:
    """A network that came as a file: `image` float32 [N,3,H,W] or [N,H,W,3] → `logits` [N,K] or [N,K,h,w].

    `size` is (height, width); `notes` say in short sentences what was changed.
    """

    model: ModelProto
    layout: Layout
    size: tuple[int, int]
    activation: Activation
    notes: tuple[str, ...]


def read(file: Path, size: tuple[int, int] | None = None, output: str | None = None) -> Foreign:
    """Make a clean graph of opset 18 with the batch N of a file.

    `size` (height, width) is needed where the file leaves it open; `output` names an output, or any tensor inside,
    where the file has several. Raises `BundleError` with the reason for whatever is no network of one image, or
    cannot be made one.
    """
    with _step(f"{file.name} cannot be used"):
        return _read(file, size, output)


def _read(file: Path, size: tuple[int, int] | None, output: str | None) -> Foreign:
    model, notes = load(file)
    picture, fixed = ports.picture(model, size)
    with _step("the graph is broken"):
        model = ports.only(model, output)
    n, given = fixed or 1, pictures(sizes_of(model.graph.input[0])[1:])
    shape = answers(model, given[:1], n).shape
    activation = output_head.bare(model, shape, picture)
    expected = answers(model, given, n)
    version = opset(model)
    with _step(f"its operators of opset {version} cannot be converted to {OPSET}"):
        model = _converted(model)
    with _step("the graph cannot be simplified"):
        model = _opened(model, fixed)
    _refuse_control(model)
    end = output_head.finish(model, shape, picture)
    with _step("the shapes in the graph contradict each other"):
        model = _finished(model, end.shape)
    prove(model, given, expected, end.undo, fixed)
    notes += [f"opset {version} was converted to {OPSET}"] if version != OPSET else []
    notes += [f"the batch fixed at {fixed} was made symbolic"] if fixed else []
    notes += [f"the {activation} at the end was cut off"] if activation else []
    several = activation == "Sigmoid" and output_head.PADDED not in end.notes
    layout, height, width = picture
    return Foreign(model, layout, (height, width), "sigmoid" if several else "softmax", (*notes, *end.notes))


def trunk(foreign: Foreign, how: Preprocessing) -> ModelProto:
    """The network with the normalisation before it: `pixels` uint8 [N,H,W,3] RGB → `image` [N,3,H,W] → `logits`.

    Raises `BundleError` where the preprocessing gives pictures of another size.
    """
    if (how.height, how.width) != foreign.size:
        given = by((how.height, how.width))
        raise BundleError(f"the network takes pictures of {by(foreign.size)}, and the preprocessing gives {given}")
    model = ModelProto()
    model.CopyFrom(foreign.model)
    nodes, constants = _front(how)
    if foreign.layout == "NHWC":
        for node in model.graph.node:
            node.input[:] = [LAST if name == IMAGE else name for name in node.input]
        nodes.append(helper.make_node("Transpose", [IMAGE], [LAST], perm=output_head.CHANNELS_LAST))
    made = [*nodes, *model.graph.node]
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(made)
    model.graph.initializer.extend(constants)
    model.graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["N", *foreign.size, 3]))
    return _inferred(model)


def _front(how: Preprocessing) -> tuple[list[NodeProto], list[TensorProto]]:
    """(pixels in the order of the network - mean) / std, as nodes that end in the image [N,3,H,W]."""
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []

    def add(operator: str, output: str, constant: tuple[str, Any] | None = None, **attributes: Any) -> None:
        inputs = [nodes[-1].output[0] if nodes else PIXELS]
        if constant:
            inputs.append(constant[0])
            constants.append(numpy_helper.from_array(constant[1], constant[0]))
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))

    if how.channels == "BGR":
        add("Gather", FLIPPED, (ORDER, np.array([2, 1, 0])), axis=3)
    add("Cast", FLOATS, to=TensorProto.FLOAT)
    if any(how.mean):
        add("Sub", CENTRED, (MEAN, np.array(how.mean, np.float32)))
    if set(how.std) != {1.0}:
        add("Div", SCALED, (STD, np.array(how.std, np.float32)))
    add("Transpose", IMAGE, perm=output_head.CHANNELS_FIRST)
    return nodes, constants


def _converted(model: ModelProto) -> ModelProto:
    """The model in the operators of `OPSET`; newer ones that can be written by older ones are.

    Where a newer operator has no way back but was known before, the older one is taken: the proof will tell.
    """
    version = opset(model)
    model = _spelt_out(model)
    if version == OPSET:
        return model
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    try:
        return version_converter.convert_version(model, OPSET)
    except RuntimeError:
        if version < OPSET:
            raise
        model.opset_import[0].version = OPSET
        return model


def _spelt_out(model: ModelProto) -> ModelProto:
    """The model without operators that `OPSET` does not know, or knows of no shape, where ONNX defines them by others.

    It defines them by the types of their inputs, which it must be told, weights included.
    """
    used = {node.op_type for node in messages(model.graph, NodeProto)}
    new = [("", op) for op in sorted(used) if op in SHAPELESS or not onnx.defs.has(op, max_inclusive_version=OPSET)]
    if not new:
        return model
    told = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for tensor in told.graph.initializer:
        told.graph.value_info.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return inliner.inline_selected_functions(told, new, inline_schema_functions=True)


def _opened(model: ModelProto, fixed: int | None) -> ModelProto:
    """The model with an open batch and all other sizes constant."""
    batch.say(model, "N")
    model = _simplified(model)
    batch.free(model, fixed)
    return _simplified(model)


def _simplified(model: ModelProto) -> ModelProto:
    graph = ir.from_proto(model)
    simplify(graph)
    return ir.to_proto(graph)


def _refuse_control(model: ModelProto) -> None:
    if found := sorted({node.op_type for node in model.graph.node} & CONTROL):
        raise BundleError(f"the graph decides at run time what to compute ({', '.join(found)}): export it without")


def _finished(model: ModelProto, shape: Sequence[int]) -> ModelProto:
    """The model under the names of this project, and nothing in it but what is computed."""
    model = _simplified(model)
    (image,), (logits,) = model.graph.input, model.graph.output
    rename(model, {image.name: IMAGE, logits.name: LOGITS})
    inputs = [helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, ["N", *sizes_of(image)[1:]])]
    outputs = [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", *shape])]
    for node in model.graph.node:
        node.name = ""
    for part in messages(model):
        for field in {"doc_string", "metadata_props"} & set(part.DESCRIPTOR.fields_by_name):
            part.ClearField(field)
    graph = helper.make_graph(model.graph.node, "network", inputs, outputs, model.graph.initializer)
    imports = [helper.make_opsetid("", OPSET)]
    return _inferred(helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION))


def _inferred(model: ModelProto) -> ModelProto:
    """The model with the shape of every tensor."""
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


@contextmanager
def _step(fault: str) -> Iterator[None]:
    """Say what was being done when a library refused: their errors share no base class.

    A message never carries what would move a terminal's cursor, whatever a file calls its tensors.
    """
    try:
        yield
    except BundleError as error:
        if str(error).isprintable():
            raise
        raise BundleError("".join(c if c.isprintable() else "?" for c in str(error))) from error
    except Exception as error:
        raise BundleError(f"{fault}: {first_line(error)}") from error
