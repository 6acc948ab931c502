"""`POST /features`: the layers of a model, and the feature map of one of them in numbers, pictures or arrays."""

from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from percept import errors
from percept.api.body import REQUEST_BODY, attended, image
from percept.api.negotiation import choose
from percept.api.params import (
    IMAGE_ERRORS,
    KEPT_ERRORS,
    ModelQuery,
    Rules,
    Service,
    changed,
    documented_formats,
    heed,
    kept,
    kept_answer,
    picture,
    tag,
    written,
)
from percept.api.problems import documented
from percept.api.schemas.images import FeaturesAnswer, features_answer
from percept.api.schemas.models import LayersAnswer, layer_info, model_name
from percept.errors import BadParameter
from percept.explain.maps import unit
from percept.explain.principal_components import colours, components
from percept.explain.question import PIXELS_SHOWN
from percept.explain.receptive_field import cell_box, effective_field, field_under
from percept.imaging.decode import spread
from percept.imaging.overlay import COLORMAPS, GREY, HOTTEST, encode, grid, heatmap, mark, npy, overlay, pixels
from percept.pipeline import POOLS, Features
from percept.runtime.model import Model
from percept.telemetry.context import stage

router = APIRouter(tags=["images"])

Show = Literal["grid", "components", "channel", "field", "effective"]
PICTURES = ("jpeg", "png", "webp")
OFFERED = {
    None: ("json", "npy"),
    "grid": ("png", "jpeg", "webp"),
    "components": PICTURES,
    "channel": ("png", "jpeg", "webp"),
    "field": (*PICTURES, "json"),
    "effective": (*PICTURES, "npy", "json"),
}
FIELDS = ("field", "effective")
ERRORS = (errors.UnknownLayer, errors.GradientsUnavailable, errors.MethodUnavailable)
EFFECTIVE = "inferno", 0.75  # colour map and opacity of an effective receptive field
SHADE = 0.35  # how bright the photo is outside a receptive field
# Where a parameter does something.
RULES: Rules = {"channels": {"view": ("grid",)}, "colormap": {"view": ("grid", "channel")}}


class Viewing(BaseModel):
    """What `POST` and `GET` of features have in common."""

    model_config = ConfigDict(extra="forbid")

    layer: str | None = Field(None, description="name of the layer; none: the list of layers")
    pool: Literal["avg", "max"] | None = Field(None, description="pool the map to an embedding")
    view: Show | None = Field(
        None,
        description="a picture: of the strongest channels, of the principal components as colours over the photo, of "
        "one channel over the photo, or of what the cell at x, y can see (field) and what it heeds (effective)",
    )
    format: Literal["json", "npy", "png", "jpeg", "webp"] | None = Field(
        None, description="instead of the Accept header"
    )
    channels: int = Field(25, ge=1, le=256, description="channels in the grid")
    channel: int | None = Field(None, description="the channel of view=channel")
    x: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="view=field|effective, json: a point of the photo in pixels, with y",
    )
    y: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="view=field|effective, json: a point of the photo in pixels, with x",
    )
    colormap: Literal[COLORMAPS] = Field(  # type: ignore[valid-type]
        "viridis", description="colours of the grid and of the channel"
    )

    @property
    def place(self) -> tuple[float, float] | None:
        """The point of the photo that is meant."""
        return None if self.x is None or self.y is None else (self.x, self.y)

    @property
    def traced(self) -> tuple[float, float] | None:
        """The point of the photo from whose cell gradients go back to the image."""
        return self.place if self.view == "effective" else None

    def chosen(self, model: Model, accept: str | None) -> str:
        """The format of the answer; raises `BadParameter` where parameters contradict each other or the model."""
        if self.pool is not None and self.view is not None:
            raise BadParameter(f"pool gives an embedding, view={self.view} a picture: ask for one of them")
        if (self.x is None) != (self.y is None):
            raise BadParameter("x and y need each other")
        if (self.view == "channel") != (self.channel is not None):
            raise BadParameter("view=channel and channel=0, 1, … need each other")
        if self.view in FIELDS and self.place is None:
            raise BadParameter(f"view={self.view} needs x and y: the point of the photo whose cell is meant")
        layer = model.manifest.layer(self.layer or "")
        if layer and self.channel is not None and not 0 <= self.channel < layer.shape[0]:
            raise BadParameter(f"layer {layer.name!r} has {layer.shape[0]} channels, 0 to {layer.shape[0] - 1}")
        heed(self, RULES, view=self.view)
        name = choose(self.format, accept, OFFERED[self.view])
        if self.place is not None and self.view not in FIELDS and name != "json":
            raise BadParameter("x and y are for view=field, view=effective and for JSON")
        return name


class FeaturesQuery(ModelQuery, Viewing):
    """The parameters of `/features`."""


@router.post(
    "/features",
    summary="Feature maps",
    response_model=FeaturesAnswer | LayersAnswer,
    responses={
        200: {"content": documented_formats("npy", "png", "jpeg", "webp")},
        **documented(*IMAGE_ERRORS, *ERRORS),
    },
    openapi_extra={"requestBody": {**REQUEST_BODY, "required": False}},
)
async def features(request: Request, query: Annotated[FeaturesQuery, Query()], service: Service) -> Response:
    """The feature map of a layer.

    Without `layer` the list of layers, for which no image is needed. With it statistics by channel; as
    `application/x-npy` the map itself, float32 [C,h,w]; with `pool` an embedding of C numbers.

    Pictures: `view=grid` shows the strongest channels. Exactly as large as the photo are `view=components`, the first
    three principal components of the channels as red, green and blue; `view=channel`, one `channel` from its least to
    its greatest value; and `view=field`, the photo with the rectangle of it that the cell under `x`, `y` can see. What
    the network never saw is grey, and transparent in the picture of a channel. In JSON `x`, `y` add that rectangle.
    """
    model = query.find(service.repository)
    if query.layer is None:
        return _layers(query, model)
    name = query.chosen(model, request.headers.get("accept"))
    model.queue.check()
    data = await image(request, service.settings)
    found = await attended(request, service.pipeline.features(model, data, query.layer, query.traced))
    return await _answer(found, query, name, service)


@router.get(
    "/features/{id}",
    summary="Feature maps of an image that is kept",
    response_model=FeaturesAnswer | LayersAnswer,
    responses={
        200: {"content": documented_formats("npy", "png", "jpeg", "webp")},
        304: {"description": "as the client has it"},
        **documented(*KEPT_ERRORS, *ERRORS),
    },
)
async def features_again(
    request: Request,
    id: Annotated[str, Path(description="the `id` of an earlier answer about the image")],
    query: Annotated[Viewing, Query()],
    service: Service,
) -> Response:
    """The same as `POST /features`, without sending the image again: see `GET /cam/{id}`."""
    model = kept(service, id).model
    if query.layer is None:
        return _layers(query, model)
    name = query.chosen(model, request.headers.get("accept"))
    etag = tag(request, name)
    if etag is None:
        return Response(status_code=304)
    found = await attended(request, service.pipeline.features_again(id, query.layer, query.traced))
    return kept_answer(await _answer(found, query, name, service), etag, service.settings)


def _layers(query: Viewing, model: Model) -> Response:
    """The list of layers; raises `BadParameter` where parameters are about one of them."""
    lost = changed(query) - ModelQuery.model_fields.keys() - ({"format"} if query.format == "json" else set())
    if lost:
        names = ", ".join(layer.name for layer in model.manifest.layers)
        raise BadParameter(f"for {', '.join(sorted(lost))} name a layer, of {names}: without one the layers are listed")
    layers = list(map(layer_info, model.manifest.layers))
    return written(LayersAnswer(model=model_name(model.manifest), layers=layers))


async def _answer(found: Features, query: Viewing, name: str, service: Service) -> Response:
    if name == "json":
        return written(features_answer(found, query.pool, query.place))
    return picture(await service.pipeline.work(_draw, found, query, name), name)


@stage("render")
def _draw(found: Features, query: Viewing, name: str) -> bytes:
    if name == "npy" and found.influence is not None:
        return npy(found.influence)
    if query.view is None:
        return npy(found.activations if query.pool is None else POOLS[query.pool](found.activations))
    return encode(_picture(found, query), name)


def _picture(found: Features, query: Viewing) -> Image.Image:
    if query.view == "components":
        return _components(found)
    if query.channel is not None:
        return _channel(found, query.channel, query.colormap)
    if query.place is not None:
        return _effective(found, *query.place) if query.view == "effective" else _field(found, *query.place)
    return grid(found.activations, query.colormap, query.channels)


def _components(found: Features) -> Image.Image:
    """The first three principal components as red, green and blue over the photo; what was not seen is grey."""
    maps = colours(components(found.activations))
    planes = (np.nan_to_num(spread(one, found.view.geometry), nan=GREY) for one in maps)
    return Image.merge("RGB", [Image.fromarray(plane.round().astype(np.uint8)) for plane in planes])


def _channel(found: Features, k: int, colormap: str) -> Image.Image:
    """A channel from its least value to its greatest over the photo; of a constant one all is cold."""
    A = found.activations[k]
    low, high = float(A.min()), float(A.max())
    heat = (A - low) / (high - low) if high > low else np.zeros_like(A)
    return heatmap(spread(heat, found.view.geometry), colormap)


def _field(found: Features, x: float, y: float) -> Image.Image:
    """The photo, bright where the cell under (x, y) can see, dark elsewhere and grey where nothing was seen."""
    view, photo, answer = found.view.geometry, found.view.photo, field_under(found.view, found.layer, x, y)
    field = pixels(answer.box, photo.size)
    drawn = photo.convert("L").point(lambda v: v * SHADE).convert("RGB")
    drawn.paste(photo.crop(view.seen).point(lambda v: v * SHADE), view.seen)
    drawn.paste(photo.crop(field), field)
    mark(drawn, cell_box(found.view, answer.cell, found.activations.shape[1:]), answer.box)
    return drawn


def _effective(found: Features, x: float, y: float) -> Image.Image:
    """The influence of every pixel on the cell under (x, y), its square root that great things hide no small ones.

    The rectangle is the effective field. The hottest hundredth of the pixels counts as the maximum.
    """
    assert found.influence is not None
    view, field = found.view, effective_field(found.view, found.influence)
    heat = unit(np.sqrt(found.influence), PIXELS_SHOWN)
    drawn = overlay(view.photo, heat, view.geometry, *EFFECTIVE)
    cell = field_under(view, found.layer, x, y).cell
    mark(drawn, cell_box(view, cell, found.activations.shape[1:]), field.box if field else None, HOTTEST)
    return drawn
