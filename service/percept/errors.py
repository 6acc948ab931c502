"""Every error that Percept raises. `percept.api.problems` maps each to an HTTP status and a problem code.

An error message is written for the person who can fix the cause: it says what is wrong, and what would be right.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

TERMINAL_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")

MAX_SUGGESTIONS = 2
FEW_VALUES = 4  # of a parameter; the message lists them, and none is more likely than another
# Comparing names takes 10 ms for a thousand of them.
MAX_COMPARED_NAMES, MAX_COMPARED_CHARACTERS = 2000, 64


class PerceptError(Exception):
    """The base class of all errors that Percept raises."""


class BundleError(PerceptError):
    """A bundle is invalid: it is refused with this message while other bundles are served."""


class BundleRefused(PerceptError):
    """A client requested to load a model, and a bundle of the model is invalid."""


class ControlDisabled(PerceptError):
    """A client requested to load or unload a model, and `PERCEPT_MODEL_CONTROL` does not allow it."""


class DeviceError(PerceptError):
    """The configured device does not work."""


class InferenceError(PerceptError):
    """ONNX Runtime failed on valid inputs."""


class BadRequest(PerceptError):
    """The request cannot be parsed: malformed JSON, base64 or multipart, or no image in it."""


class BadParameter(PerceptError):
    """The value of a parameter is not valid for this endpoint, model or layer."""


class TargetAbsent(PerceptError):
    """The network predicts the target class nowhere in this image."""


class NetworkNotFinite(PerceptError):
    """The network computed values that are NaN or infinite for this image."""


class GradientsUnavailable(PerceptError):
    """The layer has no tail graph, so gradients cannot be computed there."""


class MethodUnavailable(PerceptError):
    """The explanation method does not work at this layer of this network."""


class DeadlineExceeded(PerceptError):
    """The response was not ready within `PERCEPT_DEADLINE_S`."""


class UnsupportedMediaType(PerceptError):
    """The media type of the request body is not one that carries images."""


class NotAnImage(PerceptError):
    """The bytes are not an image of a supported format."""


class BrokenImage(PerceptError):
    """The bytes have the signature of an image format and cannot be decoded."""


class ImageTooLarge(PerceptError):
    """The image has more bytes or pixels than the service accepts."""


class UnknownModel(PerceptError):
    """No loaded model has this name or version."""


class UnknownLayer(PerceptError):
    """The model has no tapped layer of this name."""


class UnknownFilters(PerceptError):
    """The bundle has no such filter picture."""


class UnknownImage(PerceptError):
    """The image cache has no image with this id, or no longer."""


class UnknownClass(PerceptError):
    """The model has no class with this label or index."""


class NotAcceptable(PerceptError):
    """The endpoint cannot produce any of the media types that the client accepts."""


class QueueFull(PerceptError):
    """The queue of the model is full; it is expected to have room again in about `retry_s` seconds."""

    def __init__(self, detail: str, retry_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_s = retry_s


class NotReady(PerceptError):
    """The models are still being loaded, none could be loaded, or the server is shutting down."""


def format_validation_errors(error: ValidationError, known: Collection[str] = ()) -> str:
    """Format the invalid fields of a pydantic model in one line; for an unknown one, suggest one of the `known`."""
    return format_invalid_fields((details["loc"], describe_invalid_field(details, known)) for details in error.errors())


def format_invalid_fields(fields: Iterable[tuple[Iterable[str | int], str]]) -> str:
    """Format the path and message of each invalid field in one line: `inputs.0.name: Field required; …`."""
    return "; ".join(": ".join(filter(None, (".".join(map(str, path)), message))) for path, message in fields)


def describe_invalid_field(details: Mapping[str, Any], known: Collection[str] = ()) -> str:
    """The message of one of pydantic's error details, with a suggestion if a name or a value is nearly right."""
    if details["type"] == "extra_forbidden" and known:
        return "unknown parameter" + (did_you_mean(str(details["loc"][-1]), known) or f"; there are {', '.join(known)}")
    values = re.findall(r"'([^']*)'", details["ctx"]["expected"]) if details["type"] == "literal_error" else []
    suggestion = did_you_mean(str(details["input"]), values) if len(values) > FEW_VALUES else ""
    return f"{details['msg'].removeprefix('Value error, ')}{suggestion}"


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return `; did you mean a or b?` for the known names that resemble a wrong one, or nothing."""
    if len(name) > MAX_COMPARED_CHARACTERS or len(known) > MAX_COMPARED_NAMES:
        return ""
    names = {simplify_name(one): one for one in known}
    simple = simplify_name(name)
    close = [simple] if simple in names else get_close_matches(simple, names, n=MAX_SUGGESTIONS)
    return f"; did you mean {' or '.join(names[one] for one in close)}?" if close else ""


def simplify_name(name: str) -> str:
    """The name without case, spaces and underscores, for comparisons."""
    return re.sub(r"[\s_]+", "", name.casefold())


def first_line(error: BaseException) -> str:
    """The first line of an error's message without terminal escapes, or the name of its type if it has no message."""
    return (TERMINAL_ESCAPES.sub("", str(error)).strip() or type(error).__name__).splitlines()[0]
