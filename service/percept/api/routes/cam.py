"""`POST /cam` and `GET /cam/{id}`: class-activation maps as pictures, arrays, numbers, or all of them together."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from percept import errors
from percept.api.archive import archive_response
from percept.api.body import read_image
from percept.api.cam_params import ARCHIVES, CamParams, CamRequestParams
from percept.api.disconnect import cancel_on_disconnect
from percept.api.etag import compute_etag, not_modified
from percept.api.form import form_request_body, read_form
from percept.api.negotiation import PICTURES
from percept.api.openapi import CACHED_IMAGE_ERRORS, IMAGE_ERRORS, format_responses, problem_responses
from percept.api.responses import binary_response, cache_headers, json_response
from percept.api.routing import DirectRoute
from percept.api.schemas.images import CamAnswer, CamsAnswer, cam_headers, cams_answer
from percept.api.state import Service
from percept.explain.presentation import CamOutput
from percept.pipeline import Explained, PostedImage

router = APIRouter(tags=["images"], route_class=DirectRoute)

ERRORS = (
    errors.UnknownLayer,
    errors.UnknownClass,
    errors.TargetAbsent,
    errors.GradientsUnavailable,
    errors.MethodUnavailable,
)
CONTENT = {"content": format_responses(*PICTURES, "npy", *ARCHIVES)}


@router.post(
    "/cam",
    summary="Class-activation heatmap",
    response_model=CamAnswer | CamsAnswer,
    responses={200: CONTENT, **problem_responses(*IMAGE_ERRORS, *ERRORS)},
    openapi_extra={"requestBody": form_request_body(CamRequestParams)},
)
async def cam(request: Request, params: Annotated[CamRequestParams, Query()], service: Service) -> Response:
    """Where the network looks for a class.

    By default Grad-CAM of the top class as a JPEG overlay exactly as large as the photo. For a segmenter the map
    explains the pixels predicted as the class, or those that `x`, `y` or `region` select. The part of the photo that
    the network does not see (outside a centre crop) is grey in overlays, transparent in heatmaps and NaN in arrays.
    Pictures and arrays of one map carry method, layer, target, raw range and faithfulness in `Percept-*` headers.
    Several targets, layers or a sheet give several maps: a list in JSON, a stacked array in NPY, a contact sheet as a
    picture.

    `multipart/mixed` and `application/zip` give all together, from the same pass: `prediction.json` as `/predict` gives
    it, `cam.json`, `map.npy`, `overlay.jpg` (or `heatmap.png`), for a segmenter `mask.png`, for a sheet `sheet.jpg`.
    The pictures of several maps are numbered from 0 as in `cam.json`, and so are maps of different sizes.
    """
    params, files = await read_form(request, params, service, max_images=1)
    model = service.find_model(params.model, params.version)
    output = params.output(request.headers.get("accept"))
    question = await service.pipeline.resolve(model, params.question())
    model.queue.check_capacity()
    [data] = files or [await read_image(request, service.settings)]
    image = PostedImage(model, data)
    async with cancel_on_disconnect(request), service.pipeline.admit(model):
        return await _respond(await service.pipeline.explain(image, question, output), output, service)


@router.get(
    "/cam/{id}",
    summary="Class-activation heatmap of a cached image",
    response_model=CamAnswer | CamsAnswer,
    responses={
        200: CONTENT,
        304: {"description": "the client already has this response"},
        **problem_responses(*CACHED_IMAGE_ERRORS, *ERRORS),
    },
)
async def cam_of_cached_image(
    request: Request,
    id: Annotated[str, Path(description="the `id` in an earlier response about the image")],
    params: Annotated[CamParams, Query()],
    service: Service,
) -> Response:
    """The same as `POST /cam`, without sending the image again.

    The service caches the latest images for some minutes, as far as its memory limit allows; after that the response
    is 404 `unknown_image`. From the second request about an image on, no pass of the trunk is needed.
    """
    image = service.find_cached_image(id)
    output = params.output(request.headers.get("accept"))
    question = await service.pipeline.resolve(image.model, params.question())
    headers = cache_headers(compute_etag(request, output.format), service.settings)
    if response := not_modified(request, headers):
        return response
    async with cancel_on_disconnect(request), service.pipeline.admit(image.model):
        response = await _respond(await service.pipeline.explain(image, question, output), output, service)
    response.headers.update(headers)
    return response


async def _respond(explained: Explained, output: CamOutput, service: Service) -> Response:
    if output.format == "json":
        return json_response(cams_answer(explained.maps), exclude_none=False)
    headers = cam_headers(explained.maps[0]) if len(explained.maps) == 1 else {}
    if output.format in ARCHIVES:
        return await archive_response(explained, output, headers, service.pipeline.workers.run)
    assert explained.encoded is not None
    return binary_response(explained.encoded, output.format, headers)
