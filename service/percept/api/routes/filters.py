"""`GET /models/{name}/filters`: what a model's first filters are, what its channels look for, what its layers keep."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from percept import errors
from percept.api.negotiation import choose
from percept.api.params import Service, documented_formats, find, picture, tag
from percept.api.problems import documented
from percept.api.schemas.models import ModelName, model_name
from percept.bundle.filters import tiles
from percept.bundle.manifest import Drawing, DrawingKind
from percept.errors import BadParameter, UnknownFilters
from percept.explain.question import find_layer
from percept.imaging.overlay import encode
from percept.imaging.sheet import BACKGROUND, Tile, sheet
from percept.runtime.model import Model
from percept.telemetry.context import stage

router = APIRouter(prefix="/models", tags=["models"])

OFFERED = ("png", "jpeg", "webp", "json")
SIDES: dict[DrawingKind, int] = {"kernels": 48, "maxima": 160, "inversion": 224}  # of a tile on a sheet, in pixels
ALONE = 240  # the least side of a kernel that is shown alone


class FiltersQuery(BaseModel):
    """Which filters, and how."""

    model_config = ConfigDict(extra="forbid")

    version: int | None = Field(None, description="version of the model; default: the newest")
    view: DrawingKind | None = Field(
        None,
        description="`kernels`, the weights of the first convolution; `maxima`, images that excite single channels "
        "most; `inversion`, images rebuilt from what the layers keep of one; default: maxima where a layer is named, "
        "else kernels (JSON: all)",
    )
    layer: str | None = Field(None, description="of maxima and inversions; default: all that are drawn")
    channel: int | None = Field(None, ge=0, description="of kernels, or of the maxima of a layer: this tile alone")
    format: str | None = Field(None, description="`png`, `jpeg`, `webp` or `json`; default: by Accept, else png")

    def chosen(self, model: Model, name: str) -> list[Drawing]:
        """The drawings that are meant, in the order of the layers.

        Raises `BadParameter` where the parameters exclude each other, `UnknownLayer`, and `UnknownFilters` with what
        there is.
        """
        if self.layer is not None:
            find_layer(model, self.layer)
        view = self.view or (None if name == "json" else "maxima" if self.layer else "kernels")
        if view == "kernels" and self.layer is not None:
            raise BadParameter("kernels are those of the first convolution: leave out layer, or say view=maxima")
        alone = view == "kernels" or (view == "maxima" and self.layer is not None)
        if self.channel is not None and (name == "json" or not alone):
            raise BadParameter("channel is for pictures of kernels, or of the maxima of one layer")
        order = [layer.name for layer in model.manifest.layers]
        drawn = sorted(model.manifest.filters, key=lambda one: (one.kind, order.index(one.layer) if one.layer else 0))
        found = [one for one in drawn if one.kind == (view or one.kind) and self.layer in (None, one.layer)]
        if not found and (name != "json" or view or self.layer):
            raise UnknownFilters(_missing(model, view or "filters", self.layer))
        return found


class DrawingAnswer(BaseModel):
    """A picture of filters in numbers."""

    view: DrawingKind
    layer: str | None = Field(examples=["stage2"])
    size: tuple[int, int] = Field(description="height and width of a tile in pixels", examples=[(32, 32)])
    channels: list[int] = Field(description="the channel of each tile", examples=[[0, 28, 56]])
    scores: list[float] = Field(
        description="maxima: the mean activation of the channel in its image; inversion: the relative error of the "
        "activations, ‖A(x) - A‖² / ‖A‖²",
        examples=[[4.2, 3.1, 5.0]],
    )
    noise: list[float] = Field(
        description="maxima: the greatest mean in pictures of noise, to compare with", examples=[[0.4, 0.2, 0.7]]
    )


class FiltersAnswer(BaseModel):
    """The pictures of filters that a bundle holds."""

    model: ModelName
    filters: list[DrawingAnswer]


@router.get(
    "/{name}/filters",
    summary="What the filters look for",
    response_model=FiltersAnswer,
    responses={
        200: {"content": documented_formats("png", "jpeg", "webp")},
        304: {"description": "as the client has it"},
        **documented(
            errors.UnknownModel,
            errors.UnknownLayer,
            errors.UnknownFilters,
            errors.NotAcceptable,
            errors.BadParameter,
            errors.NotReady,
        ),
    },
)
async def filters(
    request: Request,
    name: Annotated[str, Path(examples=["cifar10"])],
    query: Annotated[FiltersQuery, Query()],
    service: Service,
) -> FiltersAnswer | Response:
    """The first convolution's kernels as a picture: grey is zero, each kernel is scaled by its greatest weight.

    `layer=stage2` shows images that excite single channels of that layer most (activation maximisation, Olah et al.
    2017), `view=inversion` what the layers keep of an image: others that give the same activations (Mahendran and
    Vedaldi 2015). Both were computed by `percept visualize` and lie in the bundle; JSON lists what there is.
    """
    model = find(service.repository, name, query.version)
    form = choose(query.format, request.headers.get("accept"), OFFERED)
    chosen = query.chosen(model, form)
    etag = tag(request, form, *(model.manifest.files[one.file] for one in chosen))
    if etag is None:
        return Response(status_code=304)
    # The same version may be visualised anew: a client asks whether it was, and mostly gets a 304.
    headers = {"ETag": etag, "Cache-Control": "no-cache", "Vary": "Accept"}
    if form == "json":
        answer = FiltersAnswer(model=model_name(model.manifest), filters=list(map(_answer, chosen)))
        return Response(answer.model_dump_json(), media_type="application/json", headers=headers)
    return picture(await service.pipeline.work(_draw, model, chosen, query.channel, form), form, headers)


def _missing(model: Model, what: str, layer: str | None) -> str:
    """That there is no such picture, what there is instead, and how to get more."""
    manifest = model.manifest
    there = ", ".join(f"{one.kind} of {one.layer}" if one.layer else one.kind for one in manifest.filters)
    of = f" of layer {layer!r}" if layer else ""
    return (
        f"{manifest.name}/{manifest.version} holds no {what}{of}, but {there or 'no pictures of filters at all'}; "
        "`percept visualize BUNDLE` draws them"
    )


def _answer(drawing: Drawing) -> DrawingAnswer:
    known = drawing.model_dump(exclude={"kind", "file", "tile"})
    return DrawingAnswer(view=drawing.kind, size=drawing.tile, **known)


@stage("render")
def _draw(model: Model, drawings: Sequence[Drawing], channel: int | None, name: str) -> bytes:
    if channel is not None:
        return encode(_alone(model, drawings[0], channel), name)
    side = SIDES[drawings[0].kind]
    rows = [_tiles(model, drawing, side) for drawing in drawings]
    columns = max(map(len, rows)) if drawings[0].kind == "maxima" and len(rows) > 1 else None
    blank = Tile(Image.new("RGB", (side, side), BACKGROUND), "")
    filled = [[*row, *[blank] * ((columns or 0) - len(row))] for row in rows]
    return encode(sheet([tile for row in filled for tile in row], columns, side), name)


def _alone(model: Model, drawing: Drawing, channel: int) -> Image.Image:
    """One tile: of maxima pixel for pixel, of kernels enlarged."""
    if channel not in drawing.channels:
        shown = ", ".join(map(str, drawing.channels))
        raise UnknownFilters(f"the {drawing.kind} that are drawn are those of the channels {shown}, not of {channel}")
    tile = tiles(model.drawn[drawing.file], drawing)[drawing.channels.index(channel)]
    return _enlarged(tile, ALONE) if drawing.kind == "kernels" else tile


def _tiles(model: Model, drawing: Drawing, side: int) -> list[Tile]:
    """The tiles of a drawing under the names of their channels."""
    shown = tiles(model.drawn[drawing.file], drawing)
    if drawing.kind == "kernels":
        return [Tile(_enlarged(one, side), str(k)) for one, k in zip(shown, drawing.channels, strict=True)]
    if drawing.kind == "inversion":
        return [Tile(shown[0], str(drawing.layer), f"error {drawing.scores[0]:.2g}")]
    numbers = zip(shown, drawing.channels, drawing.scores, drawing.noise, strict=True)
    return [Tile(one, f"{drawing.layer} {k}", f"{score:.3g} (noise {noise:.2g})") for one, k, score, noise in numbers]


def _enlarged(kernel: Image.Image, side: int) -> Image.Image:
    """Every weight a square, the longer side nearly `side` pixels."""
    times = max(1, round(side / max(kernel.size)))
    return kernel.resize((times * kernel.width, times * kernel.height), Image.Resampling.NEAREST)
