"""What a request of the Open Inference Protocol means for a model, and what was found for it as tensors.

A class-activation map of each image comes where a parameter or the name of the output asks for one. What a model takes
and gives at all is its `signature`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from percept.bundle.manifest import Manifest
from percept.errors import BadParameter, UnknownLayer, faults
from percept.explain.methods import METHODS
from percept.explain.question import Question
from percept.imaging.decode import Map, Pixels
from percept.oip.codec import ALL_BINARY, BINARY, InferRequest, Output, Parameters, RequestOutput, Tensor
from percept.oip.metadata import CAM, LOGITS, SCORES, TARGET
from percept.pipeline import Asked, Inferred
from percept.runtime.model import Model
from percept.tasks.table import activate

TOP = "classification"  # parameter of an output: the best classes of it, as text (Triton's classification extension)
SCALES = {"raw": "raw", "unit": "heat"}  # what of an explanation each is
# Parameters of a request that clients send unasked, and that mean nothing here.
HINTS = {"timeout", "priority", "sequence_id", "sequence_start", "sequence_end"}


class CamParameters(BaseModel):
    """Parameters of a request, or of its output `cam`: which maps are meant. They are those of `/cam`."""

    model_config = ConfigDict(extra="forbid")

    method: Literal[tuple(METHODS)] = "gradcam"  # type: ignore[valid-type]
    target: str | int | None = None
    against: str | int | None = None
    layer: str | None = Field(None, description="a+b fuses two layers")
    scale: Literal["raw", "unit"] = Field("raw", description="before ReLU, or as shown in [0,1]")

    def question(self) -> Question:
        """What is asked of every image."""
        return Question(
            methods=(self.method,),
            layers=(tuple(self.layer.split("+")),) if self.layer else (),
            targets=() if self.target is None else (str(self.target),),
            against=None if self.against is None else str(self.against),
        )


@dataclass(frozen=True)
class Wanted:
    """An output that is asked for; `top` classes of it as text where that is not 0."""

    name: str
    binary: bool
    top: int = 0


@dataclass(frozen=True, eq=False)
class Inference:
    """What a request means for a model."""

    images: Sequence[bytes | Pixels]
    wanted: Sequence[Wanted]
    cam: CamParameters | None

    @property
    def outputs(self) -> frozenset[str]:
        """The outputs of the trunk that are needed."""
        return frozenset({LOGITS, *(one.name for one in self.wanted)} - {SCORES, CAM, TARGET})

    @property
    def question(self) -> Asked | None:
        """What is asked about every image."""
        cam = self.cam
        return None if cam is None else lambda _: cam.question()


def understand(model: Model, request: InferRequest, tensors: Mapping[str, Tensor], max_images: int) -> Inference:
    """What a request means for a model; raises `BadParameter` or `UnknownLayer` with what would be right."""
    images = _images(tensors)
    if not 0 < len(images) <= max_images:
        raise BadParameter(f"there are {len(images)} images; 1 to {max_images} are taken in one request")
    binary = bool(request.parameters.get(ALL_BINARY))
    wanted = [_wanted(one, binary, model.manifest) for one in request.outputs] or [Wanted(SCORES, binary)]
    names = {one.name for one in wanted}
    cam, given = _about_cam(request)
    if cam and CAM not in names:
        wanted.append(Wanted(CAM, binary))
    if not cam and not names & {CAM, TARGET}:
        if given:
            raise BadParameter(f"{', '.join(sorted(given))} would do nothing: no {CAM} is asked for")
        return Inference(images, wanted, None)
    return Inference(images, wanted, _parameters(given))


def outputs(manifest: Manifest, asked: Inference, found: Sequence[Inferred]) -> list[Output]:
    """What was found for the images, as the outputs that are asked for."""
    return [_output(manifest, asked.cam, one, found) for one in asked.wanted]


def _images(tensors: Mapping[str, Tensor]) -> Sequence[bytes | Pixels]:
    match dict(tensors):
        case {"image": list(files), **others} if not others:
            return files
        case {"pixels": np.ndarray() as pixels, **others} if not others and pixels.ndim == 4:
            return list(pixels)
    given = ", ".join(sorted(tensors))
    raise BadParameter(f"the input is either image, BYTES [N, 1], or pixels, UINT8 [N, H, W, 3]; there is {given}")


def _wanted(one: RequestOutput, binary: bool, manifest: Manifest) -> Wanted:
    known = [SCORES, LOGITS, *(layer.name for layer in manifest.layers), CAM, TARGET]
    if one.name not in known:
        raise UnknownLayer(f"model {manifest.name!r} has no output {one.name!r}; it has {', '.join(known)}")
    own = {BINARY, TOP, *(CamParameters.model_fields if one.name == CAM else ())}
    if strange := set(one.parameters) - own:
        raise BadParameter(f"the output {one.name!r} has no parameter {', '.join(sorted(strange))}")
    top = one.parameters.get(TOP, 0)
    if not isinstance(top, int) or top < 0:
        raise BadParameter(f"{TOP} is a number of classes")
    if top and (one.name not in (SCORES, LOGITS) or len(manifest.logits) > 1):
        raise BadParameter(f"{TOP} is for the {SCORES} and {LOGITS} of a classifier")
    return Wanted(one.name, bool(one.parameters.get(BINARY, binary)), top)


def _about_cam(request: InferRequest) -> tuple[bool, Parameters]:
    """Whether the request's parameter asks for a map, and what it and the output `cam` say about it."""
    given = {name: value for name, value in request.parameters.items() if name not in (ALL_BINARY, *HINTS)}
    wish = given.pop(CAM, False)
    for one in request.outputs:
        if one.name == CAM:
            given |= {name: value for name, value in one.parameters.items() if name not in (BINARY, TOP)}
    return bool(wish), {"method": wish, **given} if isinstance(wish, str) and wish else given


def _parameters(given: Parameters) -> CamParameters:
    try:
        return CamParameters.model_validate(given)
    except ValidationError as error:
        there = ", ".join(CamParameters.model_fields)
        raise BadParameter(f"{faults(error)}; a request has {CAM}, and for it {there}") from error


def _output(manifest: Manifest, cam: CamParameters | None, one: Wanted, found: Sequence[Inferred]) -> Output:
    if cam and one.name == CAM:
        maps = [each.maps[0] for each in found]
        about: Parameters = {"method": cam.method, "layer": maps[0].layer}
        return Output(CAM, np.stack([getattr(each, SCALES[cam.scale]) for each in maps]), one.binary, about)
    if cam and one.name == TARGET:
        return Output(TARGET, np.array([each.maps[0].target for each in found], np.int64), one.binary)
    if one.name == SCORES:
        values = np.stack([activate(each.row[LOGITS], manifest.activation) for each in found])
    else:
        values = np.stack([each.row[one.name] for each in found])
    return Output(one.name, _best(values, manifest.labels, one.top) if one.top else values, one.binary)


def _best(values: Map, labels: Sequence[str], top: int) -> NDArray[Any]:
    """The best classes of each row [N,K] as `value:index:label`, bytes [N,top]."""
    orders = np.argsort(-values, axis=1, kind="stable")[:, :top]
    rows = [[f"{row[k]:f}:{k}:{labels[k]}".encode() for k in order] for row, order in zip(values, orders, strict=True)]
    return np.array(rows, dtype=object)
