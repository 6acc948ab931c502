"""Import a network from an `.onnx` file of any exporter.

In comes a file; out comes an `ImportedNetwork`: a graph of opset 18 with a symbolic batch and raw logits. The
import converts what exporters have written for ten years: weights among the inputs, old operators, a batch of one,
sizes computed at run time, a softmax at the end. It checks that the new graph computes for a batch of three images what
the file computes for each alone. This module knows neither the layers nor the meaning of the classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnx import ModelProto, TensorProto, helper

from percept.bundle.manifest import IMAGE, Activation, OutputHead
from percept.errors import BundleError, first_line
from percept_models.autodiff.tail import LOGITS
from percept_models.graph.builder import OPSET
from percept_models.graph.reader import Array
from percept_models.graph.simplification import simplify
from percept_models.importer.batch import make_batch_symbolic, set_batch_size
from percept_models.importer.conversion import convert_opset, infer_shapes
from percept_models.importer.equivalence import check_equivalence, run_each, sample_images
from percept_models.importer.float_types import check_float32, to_float32
from percept_models.importer.input_type import cast_input, remove_input_cast
from percept_models.importer.model_file import IR_VERSION, iterate_messages, load_model, opset_version, root_cause
from percept_models.importer.modules import module_outputs
from percept_models.importer.naming import assign_readable_names
from percept_models.importer.output_head import FoundHead, append_logits, find_head
from percept_models.importer.signature import ImageInput, ImageLayout, dimensions, read_image_input, select_output

CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})


@dataclass(frozen=True)
class ImportedNetwork:
    """A network from a file: `image` float32 [N,C,H,W] or [N,H,W,C] → `logits` [N,K] or [N,K,h,w].

    `size` is (height, width); `head` says how the logits were made; `notes` say in short sentences what was changed.
    `names` has the name in the file of each tensor, `modules` the path of the module whose output a tensor is.
    A network that `takes_pixels` had an input of uint8, and normalizes the pixels itself.
    """

    model: ModelProto
    layout: ImageLayout
    size: tuple[int, int]
    activation: Activation
    head: OutputHead
    notes: tuple[str, ...]
    names: Mapping[str, str]
    modules: Mapping[str, str]
    channels: int = 3
    takes_pixels: bool = False


def import_network(
    file: Path,
    size: tuple[int, int] | None = None,
    output: str | None = None,
    activation: Activation | None = None,
) -> ImportedNetwork:
    """Convert a file to a graph of opset 18 with the batch N.

    `size` (height, width) is needed where the file leaves it open; `output` names an output, or any other tensor,
    where the file has several; `activation` is what the user asks for. Raises `BundleError` with the reason where the
    file does not hold a network of one image, or cannot be converted.
    """
    with _explain_errors(f"{file.name} cannot be used"):
        return _import(file, size, output, activation)


def _import(
    file: Path, size: tuple[int, int] | None, output: str | None, requested: Activation | None
) -> ImportedNetwork:
    model, notes = load_model(file)
    modules = module_outputs(model)
    image, fixed = read_image_input(model, size)
    with _explain_errors("the graph is invalid"):
        model = select_output(model, output)
    cast_input(model)
    notes += ["the uint8 input became float32: the file normalizes the pixels itself"] if image.pixels else []
    samples = sample_images(dimensions(model.graph.input[0])[1:], image.pixels)
    model, head, expected, float_notes = _find_float32_head(model, samples, fixed or 1, image, requested)
    version = opset_version(model)
    model = _with_current_operators(model, fixed)
    converted = append_logits(model, head, requested, output)
    with _explain_errors("the shapes in the graph contradict each other"):
        model, names = _with_standard_names(model, converted.shape)
    check_equivalence(model, samples, expected, converted.undo, fixed)
    notes += float_notes
    notes += [f"opset {version} was converted to {OPSET}"] if version != OPSET else []
    notes += [f"the batch fixed at {fixed} was made symbolic"] if fixed else []
    return ImportedNetwork(
        model=model,
        layout=image.layout,
        size=(image.height, image.width),
        activation=converted.activation,
        head=converted.head,
        notes=(*notes, *converted.notes),
        names=names,
        modules={new: modules[old] for new, old in names.items() if old in modules},
        channels=image.channels,
        takes_pixels=image.pixels,
    )


def _find_float32_head(
    model: ModelProto, samples: Array, n: int, image: ImageInput, requested: Activation | None
) -> tuple[ModelProto, FoundHead, Array, list[str]]:
    """Return a model whose batch is n in float32 with the output of `find_head`, that head, its values, and notes."""
    converted, float_types = to_float32(model)
    raw = run_each(converted, samples, n, kinds="fiub")
    head = find_head(converted, raw, image, requested)
    values = run_each(converted, samples, n)
    head.check(raw, values)
    if not float_types:
        return converted, head, values, []
    model.graph.output[0].CopyFrom(converted.graph.output[0])
    changes = check_float32(model, converted, samples, n)
    return converted, head, values, [f"{' and '.join(float_types)} became float32: {changes}"]


def _with_current_operators(model: ModelProto, fixed: int | None) -> ModelProto:
    """Return the model in the operators of `OPSET`, with the batch N and all other sizes constant."""
    with _explain_errors(f"its operators of opset {opset_version(model)} cannot be converted to {OPSET}"):
        model = convert_opset(model)
    remove_input_cast(model)
    with _explain_errors("the graph cannot be simplified"):
        model = _with_symbolic_batch(model, fixed)
    _reject_control_flow(model)
    _reject_batch_ranges(model)
    return model


def _with_symbolic_batch(model: ModelProto, fixed: int | None) -> ModelProto:
    """Return the model with the batch N and all other sizes constant."""
    set_batch_size(model, "N")
    model = _simplified(model)
    make_batch_symbolic(model, fixed)
    return _simplified(model)


def _simplified(model: ModelProto) -> ModelProto:
    graph = ir.from_proto(model)
    simplify(graph)
    return ir.to_proto(graph)


def _reject_batch_ranges(model: ModelProto) -> None:
    if "DynamicQuantizeLinear" in {node.op_type for node in model.graph.node}:
        raise BundleError(
            "DynamicQuantizeLinear rounds an image by the range of its whole batch, so that images would change each "
            "other: export the network before its quantization, or quantize it statically"
        )


def _reject_control_flow(model: ModelProto) -> None:
    if found := sorted({node.op_type for node in model.graph.node} & CONTROL_FLOW):
        raise BundleError(
            f"the graph decides at run time what to compute ({', '.join(found)}): export it without control flow"
        )


def _with_standard_names(model: ModelProto, shape: Sequence[int]) -> tuple[ModelProto, dict[str, str]]:
    """Return the model with the input `image`, the output `logits` of this shape, new tensor names and no metadata.

    The second value has the old name of each tensor.
    """
    model = _simplified(model)
    (image,), (logits,) = model.graph.input, model.graph.output
    names = assign_readable_names(model, {image.name: IMAGE, logits.name: LOGITS})
    inputs = [helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, ["N", *dimensions(image)[1:]])]
    outputs = [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", *shape])]
    for node in model.graph.node:
        node.name = ""
    for message in iterate_messages(model):
        for field in {"doc_string", "metadata_props"} & set(message.DESCRIPTOR.fields_by_name):
            message.ClearField(field)
    graph = helper.make_graph(model.graph.node, "network", inputs, outputs, model.graph.initializer)
    imports = [helper.make_opsetid("", OPSET)]
    return infer_shapes(helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)), names


@contextmanager
def _explain_errors(context: str) -> Iterator[None]:
    """Turn any error of a library into a `BundleError` that begins with the context: they share no base class.

    The message holds printable characters only: a tensor's name in it could otherwise control the terminal.
    """
    try:
        yield
    except BundleError as error:
        if str(error).isprintable():
            raise
        raise BundleError("".join(c if c.isprintable() else "?" for c in str(error))) from error
    except Exception as error:
        raise BundleError(f"{context}: {first_line(root_cause(error))}") from error
