"""`/cam`: where a network looks, as a picture, an array, numbers, or all of them together."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from percept import errors
from percept.api.archive import ARCHIVES, File
from percept.api.body import REQUEST_BODY, attended, image
from percept.api.cam_params import PICTURES, TOGETHER, CamQuery, Looking
from percept.api.params import (
    IMAGE_ERRORS,
    KEPT_ERRORS,
    Service,
    documented_formats,
    kept,
    kept_answer,
    picture,
    tag,
    written,
)
from percept.api.parts import parts
from percept.api.problems import documented
from percept.api.schemas.images import CamAnswer, CamsAnswer, cam_headers, cams_answer
from percept.explain import presentation
from percept.explain.presentation import arrays, contact, stacked
from percept.explain.question import Explanation
from percept.imaging.overlay import encode, npy
from percept.pipeline import Explained
from percept.telemetry.context import stage

router = APIRouter(tags=["images"])

ERRORS = (
    errors.UnknownLayer,
    errors.UnknownClass,
    errors.TargetAbsent,
    errors.GradientsUnavailable,
    errors.MethodUnavailable,
)
FORMATS = {"content": documented_formats(*PICTURES, "npy", *TOGETHER)}


@router.post(
    "/cam",
    summary="Class-activation heatmap",
    response_model=CamAnswer | CamsAnswer,
    responses={200: FORMATS, **documented(*IMAGE_ERRORS, *ERRORS)},
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def cam(request: Request, query: Annotated[CamQuery, Query()], service: Service) -> Response:
    """Where the network looks for a class.

    By default Grad-CAM of the top class as a JPEG overlay exactly as large as the photo. For a segmenter the
    explanation is about the pixels predicted as the class, or about those that `x`, `y` or `region` name. What the
    network never saw (outside a centre crop) is grey in overlays, transparent in heatmaps and NaN in arrays. Pictures
    and arrays of one map carry method, layer, target, raw range and faithfulness in `Percept-*` headers. Several
    targets, layers or a sheet give several maps: a list in JSON, one array after the other in NPY, a contact sheet as a
    picture.

    As `multipart/mixed` or `application/zip` all together, from the same pass: `prediction.json` as `/predict` gives
    it, `cam.json`, `map.npy`, `overlay.jpg` (or `heatmap.png`), for a segmenter `mask.png`, of a sheet `sheet.jpg`.
    Of several maps the pictures are numbered from 0 as in `cam.json`, and so are maps of different sizes.
    """
    model = query.find(service.repository)
    name = query.chosen(request.headers.get("accept"))
    model.queue.check()
    data = await image(request, service.settings)
    found = await attended(request, service.pipeline.explain(model, data, query.question))
    return await _answer(request, found, query, name, service)


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
) -> Response:
    """The same as `POST /cam`, without sending the image again.

    The last images are kept for some minutes, as far as the store reaches; from the second look on an answer costs no
    pass of the trunk. Expired: 404 `unknown_image`.
    """
    kept(service, id)
    name = query.chosen(request.headers.get("accept"))
    etag = tag(request, name)
    if etag is None:
        return Response(status_code=304)
    found = await attended(request, service.pipeline.explain_again(id, query.question))
    answer = await _answer(request, found, query, name, service)
    return kept_answer(answer, etag, service.settings)


async def _answer(request: Request, found: Explained, query: Looking, name: str, service: Service) -> Response:
    maps, work = found.maps, service.pipeline.work
    if name == "json":
        return written(await work(cams_answer, maps, query.boxes), exclude_none=False)
    headers = cam_headers(maps[0]) if len(maps) == 1 else {}
    if name not in ARCHIVES:
        return picture(await work(_draw, maps, query, name), name, headers)
    files = await attended(request, _files(found, query, service))
    kind, body = await work(ARCHIVES[name], files)
    if name == "zip":
        headers["Content-Disposition"] = f'attachment; filename="percept-{found.view.id}.zip"'
    return Response(body, media_type=kind, headers=headers)


async def _files(found: Explained, query: Looking, service: Service) -> list[File]:
    """Every file of an answer, each in a turn of its own: others' may come in between."""
    files: list[File] = []
    making = parts(found, query, query.boxes)
    while (file := await service.pipeline.work(_made, making)) is not None:
        files.append(file)
    return files


@stage("render")
def _made(files: Iterator[File]) -> File | None:
    """The next file; None where there are no more."""
    return next(files, None)


@stage("render")
def _draw(maps: Sequence[Explanation], query: Looking, name: str) -> bytes:
    if name == "npy":
        return npy(stacked(arrays(maps, query)))
    one = len(maps) == 1 and query.view != "sheet"
    return encode(presentation.picture(maps[0], query) if one else contact(maps, query), name)
