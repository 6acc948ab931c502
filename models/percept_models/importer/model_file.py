"""A stranger's `.onnx` file → a model in memory that is safe to work on, or a reason to refuse it.

What leaves has all weights inside, no functions of its own, no operators but ONNX's, one list of inputs that are no
weights, and dropout and batch norm as they are at inference. Nothing beside the file is opened before every place
that the file names has been checked. What the network is for is not known here.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]  # it ships no types
from onnx import ModelProto, TensorProto, external_data_helper, inliner

from percept.errors import BundleError

LIMIT = 2**31 - 1  # bytes: no protobuf message can be longer
IR_VERSION = 10  # the version of the container, old enough for every runtime that knows `graph.OPSET`
ONNX = ("", "ai.onnx")


def load(file: Path) -> tuple[ModelProto, list[str]]:
    """Read a file and the external data that it names, and say what was changed in short sentences.

    Raises `BundleError` for whatever cannot be used.
    """
    size = _size(file)
    model = ModelProto()
    try:
        model.ParseFromString(file.read_bytes())
    except DecodeError as error:
        raise BundleError(f"{file.name} is not an ONNX file, or it is cut short") from error
    except OSError as error:
        raise BundleError(f"{file.name} cannot be read: {error.strerror}") from error
    if not model.graph.node or not model.opset_import:
        raise BundleError(f"{file.name} holds no ONNX graph: it is empty, or something else")
    _fetch(model, file.parent, size)
    model = _inline(model)
    _refuse_foreign_operators(model)
    return model, _unlist(model) + _calm(model)


def opset(model: ModelProto) -> int:
    """The version of ONNX's operators that a model uses; raises `BundleError` where it states none."""
    found = [o.version for o in model.opset_import if o.domain in ONNX]
    if not found:
        raise BundleError("the file does not say which version of the ONNX operators it uses")
    return int(found[0])


def first_line(error: Exception) -> str:
    """The first line of what an error was caused by, for a message of our own."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def messages(message: Any, kind: type[Any] = Message) -> Iterator[Any]:
    """Every message of a kind at any depth: in subgraphs, attributes, functions and sparse tensors too."""
    if isinstance(message, kind):
        yield message
    for field, value in message.ListFields():
        if field.message_type:
            for part in [value] if isinstance(value, Message) else value:
                yield from messages(part, kind)


def _size(file: Path) -> int:
    if not file.is_file():
        raise BundleError(f"{file} is not a file")
    size = file.stat().st_size
    if size > LIMIT:
        raise _too_big(file.name)
    return size


def _too_big(name: str) -> BundleError:
    return BundleError(f"{name} has more than 2 GB with its weights, and no ONNX graph can: use a smaller network")


def _fetch(model: ModelProto, folder: Path, size: int) -> None:
    """Read external data into the model, once every place has been checked and the sum is known to fit."""
    outside = [t for t in messages(model, TensorProto) if t.data_location == TensorProto.EXTERNAL]
    if size + sum(_extent(tensor, folder) for tensor in outside) > LIMIT:
        raise _too_big("the network")
    for tensor in outside:
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except Exception as error:  # checker.ValidationError, ValueError, OSError: they share no base class
            raise BundleError(f"external data cannot be read: {first_line(error)}") from error


def _extent(tensor: TensorProto, folder: Path) -> int:
    """How many bytes of external data a tensor takes; `BundleError` where these lie outside the folder."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    location = said.get("location", "")
    known = {"location", "offset", "length", "checksum", "basepath"}
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    if posix.is_absolute() or windows.anchor or ".." in windows.parts:
        raise BundleError(f"the external data {location!r} lies outside the folder of the file: put it beside the file")
    place = (folder / location).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise BundleError(f"the external data {location!r} is a link out of the folder of the file: copy it there")
    if not place.is_file():
        raise BundleError(f"the external data {location!r} is missing: it belongs beside the file")
    whole = place.stat().st_size
    if unknown := set(said) - known:
        raise BundleError(f"external data is described by words that ONNX does not know: {sorted(unknown)}")
    try:
        offset = int(said.get("offset", 0))
        length = int(said.get("length", whole - offset))
    except ValueError:
        offset = length = -1
    if min(offset, length) < 0 or offset + length > whole:
        raise BundleError(f"the external data {location!r} is cut short, or the place in it is wrong")
    return length


def _inline(model: ModelProto) -> ModelProto:
    """The model without functions of its own."""
    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:  # the binding raises RuntimeError and its own kinds
        raise BundleError(f"the functions of the file cannot be inlined: {first_line(error)}") from error


def _refuse_foreign_operators(model: ModelProto) -> None:
    nodes = messages(model.graph, onnx.NodeProto)
    foreign = sorted({f"{n.domain}.{n.op_type}" for n in nodes if n.domain not in ONNX})
    if foreign:
        raise BundleError(
            f"the file uses operators that are not ONNX's own: {', '.join(foreign)}; export the network again "
            "without them (runtimes write such files when they optimize)"
        )


def _unlist(model: ModelProto) -> list[str]:
    """Take weights off the list of inputs, where old exporters put them too."""
    model.ir_version = IR_VERSION  # before version 4 a weight had to be an input
    version = opset(model)
    del model.opset_import[:]
    model.opset_import.add(domain="", version=version)
    stored = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    images = [v for v in model.graph.input if v.name not in stored]
    listed = len(images) < len(model.graph.input)
    del model.graph.input[:]
    model.graph.input.extend(images)
    return ["the weights were taken off the list of inputs"] if listed else []


def _calm(model: ModelProto) -> list[str]:
    """Set dropout and batch norm to inference."""
    training = False
    for node in messages(model.graph, onnx.NodeProto):
        node.domain = ""
        if node.op_type == "Dropout" and not any(node.output[1:]):
            node.op_type = "Identity"
            del node.input[1:], node.output[1:], node.attribute[:]
        elif node.op_type == "BatchNormalization":
            training |= len(node.output) > 1
            kept = [a for a in node.attribute if a.name != "training_mode"]
            del node.output[1:], node.attribute[:]
            node.attribute.extend(kept)
    return ["a batch norm in training mode was set to inference"] if training else []
