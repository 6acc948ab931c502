"""Read an `.onnx` file of unknown origin: a file comes in, a model that is safe to work on leaves, or `BundleError`.

The model has all weights inside, no functions of its own, only ONNX's own operators, no weights among its inputs, and
dropout and batch norm as at inference. Every location of external data is checked before any is opened. This module
does not know what the network is for.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]  # it ships no types
from onnx import ModelProto, TensorProto, external_data_helper, inliner

from percept.errors import BundleError, first_line

MAX_BYTES = 2**31 - 1  # no protobuf message can be longer
IR_VERSION = 10  # the version of the container, old enough for every runtime that supports `OPSET`
ONNX_DOMAINS = ("", "ai.onnx")
EXTERNAL_DATA_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})


def load_model(file: Path) -> tuple[ModelProto, list[str]]:
    """Read a file with the external data that it names; return the model and a note on each change.

    Raises `BundleError` where the file cannot be used.
    """
    size = _checked_size(file)
    model = ModelProto()
    try:
        model.ParseFromString(file.read_bytes())
    except DecodeError as error:
        raise BundleError(f"{file.name} is not an ONNX file, or it is truncated") from error
    except OSError as error:
        raise BundleError(f"{file.name} cannot be read: {error.strerror}") from error
    if not model.graph.node or not model.opset_import:
        raise BundleError(f"{file.name} holds no ONNX graph: it is empty, or another kind of file")
    _load_external_data(model, file.parent, size)
    model = _inline_functions(model)
    _reject_custom_operators(model)
    return model, _remove_weights_from_inputs(model) + _set_to_inference(model)


def opset_version(model: ModelProto) -> int:
    """Return the version of ONNX's operators that a model uses; raise `BundleError` where it states none."""
    found = [o.version for o in model.opset_import if o.domain in ONNX_DOMAINS]
    if not found:
        raise BundleError("the file does not say which version of the ONNX operators it uses")
    return int(found[0])


def root_cause(error: Exception) -> Exception:
    """Return the error at the end of the chain of causes, where torch and onnx say what is wrong."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def iterate_messages(message: Any, kind: type[Any] = Message) -> Iterator[Any]:
    """Yield every message of a kind at any depth: in subgraphs, attributes, functions and sparse tensors too."""
    if isinstance(message, kind):
        yield message
    for field, value in message.ListFields():
        if field.message_type:
            for part in [value] if isinstance(value, Message) else value:
                yield from iterate_messages(part, kind)


def _checked_size(file: Path) -> int:
    if not file.is_file():
        raise BundleError(f"{file} is not a file")
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise _too_large(file.name)
    return size


def _too_large(name: str) -> BundleError:
    return BundleError(
        f"{name} has more than 2 GB with its weights, the most that an ONNX graph can have: use a smaller network"
    )


def _load_external_data(model: ModelProto, folder: Path, size: int) -> None:
    """Read external data into the model after checking every location and the sum of all sizes."""
    external = [t for t in iterate_messages(model, TensorProto) if t.data_location == TensorProto.EXTERNAL]
    if size + sum(_external_bytes(tensor, folder) for tensor in external) > MAX_BYTES:
        raise _too_large("the network")
    for tensor in external:
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except Exception as error:  # checker.ValidationError, ValueError, OSError: they share no base class
            raise BundleError(f"external data cannot be read: {first_line(root_cause(error))}") from error


def _external_bytes(tensor: TensorProto, folder: Path) -> int:
    """Return how many bytes of external data a tensor takes; raise `BundleError` where they lie outside the folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    available = _external_file(location, folder).stat().st_size
    if unknown := set(entries) - EXTERNAL_DATA_KEYS:
        raise BundleError(f"external data is described by keys that ONNX does not define: {sorted(unknown)}")
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", available - offset))
    except ValueError:
        offset = length = -1
    if min(offset, length) < 0 or offset + length > available:
        raise BundleError(f"the external data {location!r} is truncated, or its offset or length is wrong")
    return length


def _external_file(location: str, folder: Path) -> Path:
    """Return the file of a location; raise `BundleError` where it is missing or outside the folder."""
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    if posix.is_absolute() or windows.anchor or ".." in windows.parts:
        raise BundleError(f"the external data {location!r} lies outside the folder of the file: put it beside the file")
    file = (folder / location).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise BundleError(f"the external data {location!r} is a link out of the folder of the file: copy it there")
    if not file.is_file():
        raise BundleError(f"the external data {location!r} is missing: it belongs beside the file")
    return file


def _inline_functions(model: ModelProto) -> ModelProto:
    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:  # the binding raises RuntimeError and its own kinds
        raise BundleError(f"the functions of the file cannot be inlined: {first_line(root_cause(error))}") from error


def _reject_custom_operators(model: ModelProto) -> None:
    nodes = iterate_messages(model.graph, onnx.NodeProto)
    custom = sorted({f"{n.domain}.{n.op_type}" for n in nodes if n.domain not in ONNX_DOMAINS})
    if custom:
        raise BundleError(
            f"the file uses operators that are not ONNX's own: {', '.join(custom)}; export the network again "
            "without them (runtimes write such files when they optimize)"
        )


def _remove_weights_from_inputs(model: ModelProto) -> list[str]:
    """Remove the weights from the list of inputs, where old exporters put them too; return a note if there were any."""
    model.ir_version = IR_VERSION  # before version 4 a weight had to be an input
    version = opset_version(model)
    del model.opset_import[:]
    model.opset_import.add(domain="", version=version)
    stored = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    inputs = [v for v in model.graph.input if v.name not in stored]
    removed = len(inputs) < len(model.graph.input)
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return ["the weights were removed from the list of inputs"] if removed else []


def _set_to_inference(model: ModelProto) -> list[str]:
    """Set dropout and batch norm to inference; return a note if a batch norm was in training mode."""
    training = False
    for node in iterate_messages(model.graph, onnx.NodeProto):
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
