"""Everything that can go wrong by name. What status each becomes is decided in `problems.py`.

The message of an error is written for the person who has to mend it: what was wrong, and what would be right.
"""

from pydantic import ValidationError


class PerceptError(Exception):
    """The root of all errors that Percept raises itself."""


class BundleError(PerceptError):
    """A bundle that does not keep the contract; refused by name while others are served."""


class BundleRefused(PerceptError):
    """A model was to be loaded, and a bundle of it breaks the contract."""


class ControlDisabled(PerceptError):
    """Models are to be loaded or unloaded, and the service was not told to allow it."""


class DeviceError(PerceptError):
    """A device was asked for and does not work."""


class InferenceError(PerceptError):
    """ONNX Runtime failed on inputs that keep the contract."""


class BadRequest(PerceptError):
    """The request cannot be taken apart: malformed JSON, base64 or multipart, or no image in it."""


class BadParameter(PerceptError):
    """A parameter has a value that this endpoint, model or layer cannot honour."""


class TargetAbsent(PerceptError):
    """A class was asked for that the network sees nowhere in this image."""


class GradientsUnavailable(PerceptError):
    """The layer has no tail: gradients cannot be computed there."""


class MethodUnavailable(PerceptError):
    """The method cannot be used at this layer of this network."""


class DeadlineExceeded(PerceptError):
    """The answer would have come later than the service promises."""


class UnsupportedMediaType(PerceptError):
    """The body's media type is none of those that carry images."""


class NotAnImage(PerceptError):
    """The bytes are no image of an allowed format."""


class BrokenImage(PerceptError):
    """The bytes begin like an image but cannot be decoded."""


class ImageTooLarge(PerceptError):
    """More bytes or more pixels than the service accepts."""


class UnknownModel(PerceptError):
    """No served model has this name or version."""


class UnknownLayer(PerceptError):
    """The model taps no layer of this name."""


class UnknownFilters(PerceptError):
    """The bundle holds no such picture of its filters."""


class UnknownImage(PerceptError):
    """No image is kept under this id, or no longer."""


class UnknownClass(PerceptError):
    """The model has no class of this label or index."""


class NotAcceptable(PerceptError):
    """None of the media types that the client accepts can be made here."""


class QueueFull(PerceptError):
    """More work is waiting than the service promises to do; it will be done in about `retry_s` seconds."""

    def __init__(self, detail: str, retry_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_s = retry_s


class NotReady(PerceptError):
    """The models are still being loaded, or none could be."""


def faults(error: ValidationError) -> str:
    """What data do not keep of a model, in one line: each fault with where it is."""
    return "; ".join(": ".join(filter(None, (".".join(map(str, one["loc"])), one["msg"]))) for one in error.errors())
