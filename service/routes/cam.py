"""`POST /cam`: where a network looks, as an overlay on the photo, a bare heatmap, an array or numbers."""

from typing import Annotated, Literal
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field

from service import errors
from service.answers import CamAnswer, cam_answer
from service.cam import METHODS
from service.image import spread
from service.media import choose
from service.pipeline import Explanation
from service.problems import documented
from service.render import COLORMAPS, encode, heatmap, npy, overlay
from service.request import REQUEST_BODY, image
from service.routes.query import IMAGE_ERRORS, ModelQuery, Service, documented_formats, picture

router = APIRouter(tags=["images"])

OFFERED = {
    "overlay": ("jpeg", "png", "webp", "npy", "json"),
    "heatmap": ("png", "jpeg", "webp", "npy", "json"),
}


class CamQuery(ModelQuery):
    """The parameters of `/cam`."""

    method: Literal[tuple(METHODS)] = Field("gradcam", description="how the map is made")  # type: ignore[valid-type]
    target: str | None = Field(None, description="label or index of a class; default: the top class of the image")
    layer: str | None = Field(None, description="default: the CAM layer of the model")
    view: Literal["overlay", "heatmap"] = "overlay"
    format: Literal["jpeg", "png", "webp", "npy", "json"] | None = Field(
        None, description="instead of the Accept header"
    )
    alpha: float = Field(0.75, ge=0, le=1, description="opacity of the hottest place")
    colormap: Literal[COLORMAPS] = "inferno"  # type: ignore[valid-type]
    size: Literal["map", "photo"] = Field("map", description="npy: in cells or in photo pixels")
    scale: Literal["raw", "unit"] = Field("raw", description="npy: before ReLU, or in [0,1]")


@router.post(
    "/cam",
    summary="Class-activation heatmap",
    response_model=CamAnswer,
    responses={
        200: {"content": documented_formats("jpeg", "png", "webp", "npy")},
        **documented(
            *IMAGE_ERRORS, errors.UnknownLayer, errors.UnknownClass, errors.TargetAbsent, errors.GradientsUnavailable
        ),
    },
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def cam(request: Request, query: Annotated[CamQuery, Query()], service: Service) -> CamAnswer | Response:
    """Where the network looks for a class.

    By default Grad-CAM of the top class as a JPEG overlay exactly as large as the photo. For a segmenter the
    explanation is about the pixels predicted as the class. What the network never saw (outside a centre crop) is
    grey in overlays, transparent in heatmaps and NaN in arrays. Pictures and arrays carry method, layer, target
    and raw range in `Percept-*` headers.
    """
    model = query.find(service.repository)
    name = choose(query.format, request.headers.get("accept"), OFFERED[query.view])
    data = await image(request, service.settings)
    explanation = await service.pipeline.explain(model, data, query.method, query.target, query.layer)
    answer = cam_answer(explanation)
    if name == "json":
        return answer
    drawn = await service.pipeline.work(_draw, explanation, query, name)
    return picture(drawn, name, _headers(answer))


def _draw(explanation: Explanation, query: CamQuery, name: str) -> bytes:
    geometry, photo = explanation.view.geometry, explanation.view.photo
    if name == "npy":
        values = explanation.raw if query.scale == "raw" else explanation.heat
        return npy(values if query.size == "map" else spread(values, geometry))
    heat = spread(explanation.heat, geometry)
    if query.view == "heatmap":
        return encode(heatmap(heat, query.colormap), name)
    return encode(overlay(photo, heat, query.colormap, query.alpha), name)


def _headers(answer: CamAnswer) -> dict[str, str]:
    model, target, raw = answer.model, answer.target, answer.raw
    return {
        "Percept-Id": answer.id,
        "Percept-Model": f"{model.name}/{model.version}",
        "Percept-Method": answer.method,
        "Percept-Layer": answer.layer,
        "Percept-Target": f"{target.index}; label={quote(target.label)}; score={target.score:.6g}",
        "Percept-Raw-Range": f"{np.float32(raw.minimum):.6g} {np.float32(raw.maximum):.6g}",
    }
