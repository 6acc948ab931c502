"""Inference requests of the Open Inference Protocol in terms of a model, and results as output tensors.

The parameter `cam` or an output of that name requests a class-activation map of each image. The tensors that a model
accepts and returns are listed in `metadata.py`. This module knows neither the encoding nor HTTP.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from percept.bundle.manifest import Manifest
from percept.errors import BadParameter, UnknownLayer, did_you_mean, format_validation_errors
from percept.explain.methods.table import METHODS
from percept.explain.question import Question
from percept.imaging.geometry import Map, Pixels
from percept.oip.codec import ALL_BINARY, BINARY, InferRequest, OutputTensor, Parameters, RequestOutput, Tensor
from percept.oip.metadata import CAM, LOGITS, SCORES, TARGET
from percept.pipeline import Inferred
from percept.runtime.model import Model
from percept.tasks.task import activate, not_finite

TOP = "classification"  # parameter of an output: the number of best classes to return as text (Triton's extension)
SCALES = {"raw": "raw", "unit": "heat"}  # the attribute of an explanation, by `scale`
# Parameters that Triton's clients always send. They are ignored.
IGNORED = {"timeout", "priority", "sequence_id", "sequence_start", "sequence_end"}


class CamParameters(BaseModel):
    """The parameters of a map, given with the request or its output `cam`; they mean the same as those of `/cam`."""

    model_config = ConfigDict(extra="forbid")

    method: Literal[tuple(METHODS)] = "gradcam"  # type: ignore[valid-type]
    target: str | int | None = None
    against: str | int | None = None
    layer: str | None = Field(None, description="a+b fuses two layers")
    scale: Literal["raw", "unit"] = Field("raw", description="before ReLU, or scaled to [0,1]")

    def question(self) -> Question:
        """The question about each image."""
        return Question(
            methods=(self.method,),
            layers=(self.layer,) if self.layer else (),
            targets=() if self.target is None else (str(self.target),),
            against=None if self.against is None else str(self.against),
        )


@dataclass(frozen=True)
class RequestedOutput:
    """A requested output; `top`, if not 0, is the number of best classes to return as text."""

    name: str
    binary: bool
    top: int = 0


@dataclass(frozen=True, eq=False)
class ParsedRequest:
    """An inference request in terms of a model: encoded images or pixels, outputs, and the parameters of maps."""

    images: Sequence[bytes | Pixels]
    outputs: Sequence[RequestedOutput]
    cam: CamParameters | None

    @property
    def trunk_outputs(self) -> frozenset[str]:
        """The trunk outputs that the requested outputs need; a map may need more."""
        return frozenset({LOGITS, *(output.name for output in self.outputs)} - {SCORES, CAM, TARGET})

    @property
    def question(self) -> Question | None:
        """The question about each image, or None if no map is requested."""
        return None if self.cam is None else self.cam.question()


def parse_request(model: Model, request: InferRequest, tensors: Mapping[str, Tensor], max_images: int) -> ParsedRequest:
    """Check a decoded request against a model; raises `BadParameter` or `UnknownLayer`, which name the remedy."""
    images = _parse_images(tensors)
    if not 0 < len(images) <= max_images:
        raise BadParameter(f"the request has {len(images)} images; 1 to {max_images} are accepted")
    binary = bool(request.parameters.get(ALL_BINARY))
    outputs = [_parse_output(output, binary, model.manifest) for output in request.outputs]
    outputs = outputs or [RequestedOutput(SCORES, binary)]
    names = {output.name for output in outputs}
    cam, parameters = _find_cam_parameters(request)
    if cam and CAM not in names:
        outputs.append(RequestedOutput(CAM, binary))
    if not cam and not names & {CAM, TARGET}:
        if parameters:
            raise BadParameter(f"{', '.join(sorted(parameters))} would have no effect: no {CAM} is requested")
        return ParsedRequest(images, outputs, None)
    return ParsedRequest(images, outputs, _parse_cam_parameters(parameters))


def output_tensors(manifest: Manifest, parsed: ParsedRequest, results: Sequence[Inferred]) -> list[OutputTensor]:
    """Stack the results of all images as the requested outputs."""
    return [_output_tensor(manifest, parsed.cam, output, results) for output in parsed.outputs]


def _parse_images(tensors: Mapping[str, Tensor]) -> Sequence[bytes | Pixels]:
    match dict(tensors):
        case {"image": list(files), **others} if not others:
            return files
        case {"pixels": np.ndarray() as pixels, **others} if not others and pixels.ndim == 4:
            return list(pixels)
    names = ", ".join(sorted(tensors))
    raise BadParameter(
        f"the input must be either image, BYTES [N, 1], or pixels, UINT8 [N, H, W, C]; the request has {names}"
    )


def _parse_output(output: RequestOutput, binary: bool, manifest: Manifest) -> RequestedOutput:
    known = [SCORES, LOGITS, *(layer.name for layer in manifest.layers), CAM, TARGET]
    if output.name not in known:
        it_has = f"it has {', '.join(known)}{did_you_mean(output.name, known)}"
        raise UnknownLayer(f"model {manifest.name!r} has no output {output.name!r}; {it_has}")
    allowed = {BINARY, TOP, *(CamParameters.model_fields if output.name == CAM else ())}
    if unknown := set(output.parameters) - allowed:
        suggestions = "".join(did_you_mean(name, allowed) for name in sorted(unknown))
        raise BadParameter(f"the output {output.name!r} has no parameter {', '.join(sorted(unknown))}{suggestions}")
    top = output.parameters.get(TOP, 0)
    if not isinstance(top, int) or top < 0:
        raise BadParameter(f"{TOP} must be a number of classes")
    if top and (output.name not in (SCORES, LOGITS) or len(manifest.logits) > 1):
        raise BadParameter(f"{TOP} requires the {SCORES} or {LOGITS} of a classifier")
    return RequestedOutput(output.name, bool(output.parameters.get(BINARY, binary)), top)


def _find_cam_parameters(request: InferRequest) -> tuple[bool, Parameters]:
    """Whether the parameter `cam` requests a map, and the parameters of maps, of the request and its output `cam`."""
    found = {name: value for name, value in request.parameters.items() if name not in (ALL_BINARY, *IGNORED)}
    cam = found.pop(CAM, False)
    for output in request.outputs:
        if output.name == CAM:
            found |= {name: value for name, value in output.parameters.items() if name not in (BINARY, TOP)}
    return bool(cam), {"method": cam, **found} if isinstance(cam, str) and cam else found


def _parse_cam_parameters(parameters: Parameters) -> CamParameters:
    try:
        return CamParameters.model_validate(parameters)
    except ValidationError as error:
        fields = CamParameters.model_fields
        raise BadParameter(
            f"{format_validation_errors(error, fields)}; the parameters are {CAM}, and for its map {', '.join(fields)}"
        ) from error


def _output_tensor(
    manifest: Manifest, cam: CamParameters | None, output: RequestedOutput, results: Sequence[Inferred]
) -> OutputTensor:
    if cam and output.name == CAM:
        maps = [result.maps[0] for result in results]
        parameters: Parameters = {"method": cam.method, "layer": maps[0].layer}
        array = np.stack([getattr(explanation, SCALES[cam.scale]) for explanation in maps])
        return OutputTensor(CAM, array, output.binary, parameters)
    if cam and output.name == TARGET:
        return OutputTensor(TARGET, np.array([result.maps[0].target for result in results], np.int64), output.binary)
    name = LOGITS if output.name == SCORES else output.name
    values = np.stack([result.outputs[name] for result in results])
    is_raw = output.binary and output.name != SCORES and not output.top  # returned whatever its values are
    if not is_raw and not np.isfinite(values).all():
        raise not_finite(manifest, f"output {name!r}")
    if output.name == SCORES:
        values = np.stack([activate(row, manifest.activation) for row in values])
    array = _best_classes(values, manifest.labels, output.top) if output.top else values
    return OutputTensor(output.name, array, output.binary)


def _best_classes(values: Map, labels: Sequence[str], top: int) -> NDArray[Any]:
    """The best classes of each row [N,K] as texts `value:index:label`, bytes [N,top]."""
    orders = np.argsort(-values, axis=1, kind="stable")[:, :top]
    rows = [[f"{row[k]:f}:{k}:{labels[k]}".encode() for k in order] for row, order in zip(values, orders, strict=True)]
    return np.array(rows, dtype=object)
