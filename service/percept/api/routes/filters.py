"""`GET /models/{name}/filters`: the filter pictures of a model, as a picture or as JSON."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from percept import errors
from percept.api.etag import compute_etag, not_modified
from percept.api.filters_params import FiltersParams
from percept.api.negotiation import MEDIA_TYPES, choose_format
from percept.api.openapi import format_responses, problem_responses
from percept.api.responses import binary_response
from percept.api.schemas.filters import FiltersAnswer, filters_answer
from percept.api.state import Service
from percept.bundle.manifest import FilterKind, FilterPicture
from percept.errors import BadParameter, UnknownFilters
from percept.explain.filter_sheets import render_filter, render_filter_sheet
from percept.explain.question import find_layer
from percept.imaging.encode import encode
from percept.runtime.model import Model
from percept.telemetry.context import stage

router = APIRouter(prefix="/models", tags=["models"])

FORMATS = ("png", "jpeg", "webp", "json")


@router.get(
    "/{name}/filters",
    summary="Filter pictures of a model",
    response_model=FiltersAnswer,
    responses={
        200: {"content": format_responses("png", "jpeg", "webp")},
        304: {"description": "the client already has this response"},
        **problem_responses(
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
    name: Annotated[str, Path(description="name of the model", examples=["cifar10"])],
    params: Annotated[FiltersParams, Query()],
    service: Service,
) -> FiltersAnswer | Response:
    """Show the filter pictures in a bundle: kernels made by `percept export`, the others by `percept visualize`.

    By default: the kernels of the first convolution. Grey is zero; each kernel is scaled by its largest weight.
    `layer=stage2`: for single channels of that layer, an image that maximises the channel's activation (Olah et al.
    2017). `view=inversion`: for each layer, an image with the same activations as a photo (Mahendran and Vedaldi 2015).
    JSON lists the available pictures.
    """
    model = service.find_model(name, params.version)
    format = choose_format(params.format, request.headers.get("accept"), FORMATS)
    pictures = select_pictures(model, params, format)
    etag = compute_etag(request, format, *(model.manifest.files[picture.file] for picture in pictures))
    # `percept visualize` may replace the pictures of a version, so clients must revalidate; they mostly get a 304.
    headers = {"ETag": etag, "Cache-Control": "no-cache", "Vary": "Accept"}
    if unchanged := not_modified(request, headers):
        return unchanged
    if format == "json":
        answer = filters_answer(model.manifest, pictures)
        return Response(answer.model_dump_json(), media_type=MEDIA_TYPES["json"], headers=headers)
    data = await service.pipeline.workers.run(_render, model, pictures, params.channel, format)
    return binary_response(data, format, headers)


def select_pictures(model: Model, params: FiltersParams, format: str) -> list[FilterPicture]:
    """Select the filter pictures that the parameters request, by kind, then in the order of the layers.

    Raises `BadParameter` for parameters that exclude each other, `UnknownLayer`, or `UnknownFilters`, which lists the
    available pictures.
    """
    layer = None if params.layer is None else find_layer(model, params.layer).name
    view = params.view or (None if format == "json" else "maxima" if layer else "kernels")
    if view == "kernels" and layer is not None:
        raise BadParameter("kernels are those of the first convolution: omit layer, or use view=maxima")
    if params.channel is not None and (format == "json" or not _has_channels(view, layer)):
        raise BadParameter("channel requires a picture of kernels, or of the maxima of one layer")
    selected = [p for p in _sorted(model) if view in (None, p.kind) and layer in (None, p.layer)]
    if not selected and (format != "json" or view or layer):
        raise UnknownFilters(_missing(model, view or "filters", layer))
    return selected


def _has_channels(view: FilterKind | None, layer: str | None) -> bool:
    """Whether a single channel can be shown alone."""
    return view == "kernels" or (view == "maxima" and layer is not None)


def _sorted(model: Model) -> list[FilterPicture]:
    order = [layer.name for layer in model.manifest.layers]
    return sorted(model.manifest.filters, key=lambda p: (p.kind, order.index(p.layer) if p.layer else 0))


def _missing(model: Model, what: str, layer: str | None) -> str:
    """The message of an `UnknownFilters`: what is missing, what is available, and how to get more."""
    manifest = model.manifest
    available = ", ".join(f"{p.kind} of {p.layer}" if p.layer else p.kind for p in manifest.filters)
    of = f" of layer {layer!r}" if layer else ""
    return (
        f"{manifest.name}/{manifest.version} has no {what}{of}; it has {available or 'no filter pictures'}; "
        "`percept visualize BUNDLE` computes them"
    )


@stage("render")
def _render(model: Model, pictures: list[FilterPicture], channel: int | None, format: str) -> bytes:
    files = model.filter_pictures
    image = render_filter_sheet(pictures, files) if channel is None else render_filter(pictures[0], files, channel)
    return encode(image, format)
