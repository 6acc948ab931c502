"""`POST /features`: the layers of a model, and the feature map of one of them in numbers, pictures or arrays."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field

from service import errors
from service.answers import (
    FeaturesAnswer,
    LayersAnswer,
    features_answer,
    layer_info,
    model_name,
)
from service.errors import BadParameter
from service.media import choose
from service.pipeline import POOLS, Features
from service.problems import documented
from service.render import COLORMAPS, encode, grid, npy
from service.request import REQUEST_BODY, image
from service.routes.query import IMAGE_ERRORS, ModelQuery, Service, documented_formats, picture

router = APIRouter(tags=["images"])


class FeaturesQuery(ModelQuery):
    """The parameters of `/features`."""

    layer: str | None = Field(None, description="name of the layer; none: the list of layers")
    pool: Literal["avg", "max"] | None = Field(None, description="pool the map to an embedding")
    view: Literal["grid"] | None = Field(None, description="a picture of the strongest channels")
    format: Literal["json", "npy", "png", "jpeg", "webp"] | None = Field(
        None, description="instead of the Accept header"
    )
    channels: int = Field(25, ge=1, le=256, description="channels in the grid")
    colormap: Literal[COLORMAPS] = Field("viridis", description="colours of the grid")  # type: ignore[valid-type]


@router.post(
    "/features",
    summary="Feature maps",
    response_model=FeaturesAnswer | LayersAnswer,
    response_model_exclude_none=True,
    responses={
        200: {"content": documented_formats("npy", "png", "jpeg", "webp")},
        **documented(*IMAGE_ERRORS, errors.UnknownLayer),
    },
    openapi_extra={"requestBody": {**REQUEST_BODY, "required": False}},
)
async def features(
    request: Request, query: Annotated[FeaturesQuery, Query()], service: Service
) -> FeaturesAnswer | LayersAnswer | Response:
    """The feature map of a layer.

    Without `layer` the list of layers, for which no image is needed. With it statistics by channel; as
    `application/x-npy` the map itself, float32 [C,h,w]; with `pool` an embedding of C numbers; with `view=grid` a
    picture of the strongest channels.
    """
    model = query.find(service.repository)
    if query.layer is None:
        return LayersAnswer(model=model_name(model.manifest), layers=list(map(layer_info, model.manifest.layers)))
    name = _format(query, request.headers.get("accept"))
    data = await image(request, service.settings)
    found = await service.pipeline.features(model, data, query.layer)
    if name == "json":
        return features_answer(found, query.pool)
    return picture(await service.pipeline.work(_draw, found, query, name), name)


def _format(query: FeaturesQuery, accept: str | None) -> str:
    if query.view is None:
        return choose(query.format, accept, ("json", "npy"))
    if query.pool is not None:
        raise BadParameter("pool gives an embedding, view=grid a picture: ask for one of them")
    return choose(query.format, accept, ("png", "jpeg", "webp"))


def _draw(found: Features, query: FeaturesQuery, name: str) -> bytes:
    if query.view == "grid":
        return encode(grid(found.activations, query.colormap, query.channels), name)
    return npy(found.activations if query.pool is None else POOLS[query.pool](found.activations))
