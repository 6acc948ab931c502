"""`/cam`: where a network looks, as an overlay on the photo, a bare heatmap, a sheet, an array or numbers."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator

from service import errors
from service.answers import CamAnswer, CamsAnswer, cam_answer
from service.errors import BadParameter
from service.explain import Explanation, Question, fault
from service.image import Box, Map, spread
from service.media import choose
from service.methods import METHODS
from service.problems import documented
from service.render import COLORMAPS, encode, heatmap, npy, overlay
from service.repository import Model
from service.request import REQUEST_BODY, attended, image
from service.routes.query import (
    IMAGE_ERRORS,
    KEPT_ERRORS,
    ModelQuery,
    Service,
    documented_formats,
    kept_answer,
    picture,
    tag,
)
from service.sheet import Tile, sheet, with_legend

router = APIRouter(tags=["images"])

PICTURES = ("jpeg", "png", "webp")
OFFERED = {
    "overlay": (*PICTURES, "npy", "json"),
    "heatmap": ("png", "jpeg", "webp", "npy", "json"),
    "sheet": PICTURES,
}
SHEET_CLASSES = 6
SHEET_PIXELS = 640  # the longer side of a photo on a sheet


class Looking(BaseModel):
    """The parameters of `/cam/{id}`: how to look at an image."""

    model_config = ConfigDict(extra="forbid")

    method: Literal[tuple(METHODS)] = Field("gradcam", description="how the map is made")  # type: ignore[valid-type]
    target: list[str] = Field([], description="labels or indices of classes, a map each; default: the top class")
    against: str | None = Field(None, description="a class: why the target and not this one")
    top: int = Field(1, ge=1, le=20, description="without target: so many of the most important classes")
    x: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="segmentation: a photo pixel to explain, with y"
    )
    y: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="segmentation: a photo pixel to explain, with x"
    )
    region: str | None = Field(
        None,
        pattern=r"^\d+(\.\d+)?(,\d+(\.\d+)?){3}$",
        description="segmentation: the rectangle left,top,right,bottom of the photo that is explained",
    )
    layer: list[str] = Field(
        [], description="layers, a map each; a+b fuses two into one map; default: the CAM layer of the model"
    )
    view: Literal["overlay", "heatmap", "sheet"] = "overlay"
    by: Literal["methods", "classes", "layers"] | None = Field(None, description="what a sheet compares")
    format: Literal["jpeg", "png", "webp", "npy", "json"] | None = Field(
        None, description="instead of the Accept header"
    )
    alpha: float = Field(0.75, ge=0, le=1, description="opacity of the hottest place")
    colormap: Literal[COLORMAPS] = "inferno"  # type: ignore[valid-type]
    legend: bool = Field(False, description="draw the colours' meaning below the picture")
    size: Literal["map", "photo"] = Field("map", description="npy: in cells or in photo pixels")
    scale: Literal["raw", "unit"] = Field("raw", description="npy: before ReLU, or in [0,1]")
    boxes: float | Literal["otsu"] | None = Field(
        None, description="json: boxes of the regions above this share of the maximum, or Otsu's threshold"
    )

    @field_validator("method", mode="before")
    @classmethod
    def _pluses(cls, value: object) -> object:
        """A plus in a query is a space, unless it was written %2B."""
        return value.replace(" ", "+") if isinstance(value, str) else value

    @field_validator("boxes")
    @classmethod
    def _a_share(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError("a share of the maximum lies between 0 and 1")
        return value

    def question(self, model: Model) -> Question:
        """What is asked of an image; raises `BadParameter` where parameters contradict each other."""
        if (self.view == "sheet") != (self.by is not None):
            raise BadParameter("view=sheet and by=methods|classes|layers need each other")
        groups = tuple(tuple(re.split(r"[+ ]", group)) for group in self.layer)  # a plus in a query is a space
        question = Question((self.method,), groups, tuple(self.target), self.top, self.against, self._place())
        match self.by:
            case "methods":
                return _replaced(question, methods=_quick(model, groups))
            case "layers" if not groups:
                layers = [(layer.name,) for layer in model.manifest.layers if not fault(model, layer, self.method)]
                return _replaced(question, layers=tuple(layers))
            case "classes" if not self.target and self.top == 1:
                return _replaced(question, top=min(SHEET_CLASSES, len(model.manifest.labels)))
        return question

    def _place(self) -> Box | None:
        """The rectangle of the photo that is meant; a point has no extent."""
        if (self.x is None) != (self.y is None) or (self.region and self.x is not None):
            raise BadParameter("give x and y, or region, or none of them")
        if self.region:
            left, top, right, bottom = map(float, self.region.split(","))
            if left >= right or top >= bottom:
                raise BadParameter("region is left,top,right,bottom: left < right and top < bottom")
            return left, top, right, bottom
        if self.x is None or self.y is None:
            return None
        return self.x, self.y, self.x, self.y


class CamQuery(ModelQuery, Looking):
    """The parameters of `/cam`."""


ERRORS = (
    errors.UnknownLayer,
    errors.UnknownClass,
    errors.TargetAbsent,
    errors.GradientsUnavailable,
    errors.MethodUnavailable,
)
FORMATS = {"content": documented_formats("jpeg", "png", "webp", "npy")}


@router.post(
    "/cam",
    summary="Class-activation heatmap",
    response_model=CamAnswer | CamsAnswer,
    responses={200: FORMATS, **documented(*IMAGE_ERRORS, *ERRORS)},
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def cam(
    request: Request, query: Annotated[CamQuery, Query()], service: Service
) -> CamAnswer | CamsAnswer | Response:
    """Where the network looks for a class.

    By default Grad-CAM of the top class as a JPEG overlay exactly as large as the photo. For a segmenter the
    explanation is about the pixels predicted as the class, or about those that `x`, `y` or `region` name. What the
    network never saw (outside a centre crop) is grey in overlays, transparent in heatmaps and NaN in arrays. Pictures
    and arrays of one map carry method, layer, target and raw range in `Percept-*` headers. Several targets, layers or
    a sheet give several maps: a list in JSON, one array after the other in NPY, a contact sheet as a picture.
    """
    model = query.find(service.repository)
    name = choose(query.format, request.headers.get("accept"), OFFERED[query.view])
    question = await service.pipeline.work(query.question, model)
    data = await image(request, service.settings)
    found = await attended(request, service.pipeline.explain(model, data, question))
    return await _answer(found, query, name, service)


@router.get(
    "/cam/{id}",
    summary="Class-activation heatmap of an image that is kept",
    response_model=CamAnswer | CamsAnswer,
    responses={
        200: FORMATS,
        304: {"description": "as the client has it"},
        **documented(*KEPT_ERRORS, *ERRORS),
    },
)
async def cam_again(
    request: Request,
    id: Annotated[str, Path(description="the `id` of an earlier answer about the image")],
    query: Annotated[Looking, Query()],
    service: Service,
) -> CamAnswer | CamsAnswer | Response:
    """The same as `POST /cam`, without sending the image again.

    The last images are kept for some minutes, as far as the store reaches; from the second look on an answer costs no
    pass of the trunk. Expired: 404 `unknown_image`.
    """
    kept = service.pipeline.store.find(id)
    name = choose(query.format, request.headers.get("accept"), OFFERED[query.view])
    etag = tag(request, name)
    if etag is None:
        return Response(status_code=304)
    question = await service.pipeline.work(query.question, kept.model)
    found = await attended(request, service.pipeline.explain_again(id, question))
    answer = await _answer(found, query, name, service)
    return kept_answer(answer, etag, service.settings, exclude_none=False)


async def _answer(
    found: Sequence[Explanation], query: Looking, name: str, service: Service
) -> CamAnswer | CamsAnswer | Response:
    if name == "json":
        answers = [await service.pipeline.work(cam_answer, one, query.boxes) for one in found]
        return answers[0] if len(answers) == 1 else CamsAnswer(results=answers)
    drawn = await service.pipeline.work(_draw, found, query, name)
    return picture(drawn, name, _headers(cam_answer(found[0])) if len(found) == 1 else None)


def _replaced(question: Question, **changes: object) -> Question:
    return Question(**(vars(question) | changes))


def _quick(model: Model, groups: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The methods that work at these layers without further passes of the whole network."""
    names = [name for group in groups for name in group] or [model.manifest.cam_layer]
    layers = [layer for layer in model.manifest.layers if layer.name in names]
    quick = (name for name, method in METHODS.items() if method.needs != "image")
    return tuple(name for name in quick if not any(fault(model, layer, name) for layer in layers))


def _draw(found: Sequence[Explanation], query: Looking, name: str) -> bytes:
    if name == "npy":
        return npy(_array(found, query))
    if len(found) == 1 and query.view != "sheet":
        return encode(_picture(found[0], query), name)
    return encode(sheet([_tile(one, query) for one in found]), name)


def _array(found: Sequence[Explanation], query: Looking) -> Map:
    """One map [h,w], or several [n,h,w]."""
    values = [one.raw if query.scale == "raw" else one.heat for one in found]
    if query.size == "photo":
        values = [spread(one, found[0].view.geometry) for one in values]
    if len({one.shape for one in values}) > 1:
        raise BadParameter("the layers have maps of different sizes: ask for size=photo, or one by one")
    return values[0] if len(values) == 1 else np.stack(values)


def _picture(one: Explanation, query: Looking) -> Image.Image:
    heat = spread(one.heat, one.view.geometry)
    if query.view == "heatmap":
        drawn = heatmap(heat, query.colormap)
    else:
        drawn = overlay(one.view.photo, heat, query.colormap, query.alpha)
    if not query.legend:
        return drawn
    return with_legend(drawn, query.colormap, "0", f"{max(float(one.raw.max()), 0):.3g}", _title(one))


def _tile(one: Explanation, query: Looking) -> Tile:
    """A small overlay with what it shows."""
    photo = one.view.photo
    factor = min(1.0, SHEET_PIXELS / max(photo.size))
    view = one.view.geometry.scaled(factor)
    small = photo.resize((view.width, view.height), Image.Resampling.BICUBIC)
    drawn = overlay(small, spread(one.heat, view), query.colormap, query.alpha)
    said = {"classes": _title(one), "methods": one.method, "layers": one.layer}
    title = said.pop(query.by or "classes")
    return Tile(drawn, title, f"{', '.join(said.values())}; score {one.score:.3g}")


def _title(one: Explanation) -> str:
    labels = one.view.model.manifest.labels
    against = "" if one.against is None else f", not {labels[one.against]}"
    return labels[one.target] + against


def _headers(answer: CamAnswer) -> dict[str, str]:
    model, target, raw = answer.model, answer.target, answer.raw
    against = f"; against={quote(target.against)}" if target.against else ""
    return {
        "Percept-Id": answer.id,
        "Percept-Model": f"{model.name}/{model.version}",
        "Percept-Method": answer.method,
        "Percept-Layer": answer.layer,
        "Percept-Target": f"{target.index}; label={quote(target.label)}; score={target.score:.6g}{against}",
        "Percept-Raw-Range": f"{np.float32(raw.minimum):.6g} {np.float32(raw.maximum):.6g}",
    }
