"""`POST /features` and `GET /features/{id}`: the layers of a model, and the feature map of one of them."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from percept import errors
from percept.api.body import read_image
from percept.api.disconnect import cancel_on_disconnect
from percept.api.etag import compute_etag, not_modified
from percept.api.features_params import FeaturesParams, FeaturesRequestParams
from percept.api.form import form_request_body, read_form
from percept.api.openapi import CACHED_IMAGE_ERRORS, IMAGE_ERRORS, format_responses, problem_responses
from percept.api.responses import binary_response, cache_headers, json_response
from percept.api.routing import DirectRoute
from percept.api.schemas.images import FeaturesAnswer, features_answer
from percept.api.schemas.models import LayersAnswer, layer_info, model_name
from percept.api.state import Service
from percept.explain.features import FeatureMap, FeatureOutput
from percept.explain.question import find_layer
from percept.pipeline import PostedImage
from percept.runtime.model import Model

router = APIRouter(tags=["images"], route_class=DirectRoute)

ERRORS = (errors.UnknownLayer, errors.GradientsUnavailable, errors.MethodUnavailable)
CONTENT = {"content": format_responses("npy", "png", "jpeg", "webp")}


@router.post(
    "/features",
    summary="Feature maps",
    response_model=FeaturesAnswer | LayersAnswer,
    responses={200: CONTENT, **problem_responses(*IMAGE_ERRORS, *ERRORS)},
    openapi_extra={"requestBody": {**form_request_body(FeaturesRequestParams), "required": False}},
)
async def features(request: Request, params: Annotated[FeaturesRequestParams, Query()], service: Service) -> Response:
    """The feature map of a layer.

    Without `layer` the list of layers, for which no image is needed. With it statistics by channel; as
    `application/x-npy` the map itself, float32 [C,h,w]; with `pool` an embedding of C numbers.

    Pictures: `view=grid` shows the strongest channels. Exactly as large as the photo are `view=components`, the first
    three principal components of the channels as red, green and blue; `view=channel`, one `channel` from its minimum
    to its maximum; `view=field`, the photo with the receptive field of the cell at `x`, `y`; and `view=effective`, the
    influence of every pixel on that cell. The part of the photo that the network does not see is grey, and transparent
    in the picture of a channel. In JSON `x`, `y` add the receptive field.
    """
    params, files = await read_form(request, params, service, max_images=1)
    model = service.find_model(params.model, params.version)
    if params.layer is None:
        return _list_layers(params, model)
    layer = find_layer(model, params.layer)
    output = params.output(model.manifest, request.headers.get("accept"))
    service.pipeline.check_features(model, layer, output)
    model.queue.check_capacity()
    [data] = files or [await read_image(request, service.settings)]
    image = PostedImage(model, data)
    async with cancel_on_disconnect(request), service.pipeline.admit(model):
        return _respond(await service.pipeline.features(image, layer, output), output)


@router.get(
    "/features/{id}",
    summary="Feature maps of a cached image",
    response_model=FeaturesAnswer | LayersAnswer,
    responses={
        200: CONTENT,
        304: {"description": "the client already has this response"},
        **problem_responses(*CACHED_IMAGE_ERRORS, *ERRORS),
    },
)
async def features_of_cached_image(
    request: Request,
    id: Annotated[str, Path(description="the `id` in an earlier response about the image")],
    params: Annotated[FeaturesParams, Query()],
    service: Service,
) -> Response:
    """The same as `POST /features`, without sending the image again: see `GET /cam/{id}`."""
    image = service.find_cached_image(id)
    if params.layer is None:
        return _list_layers(params, image.model)
    layer = find_layer(image.model, params.layer)
    output = params.output(image.model.manifest, request.headers.get("accept"))
    service.pipeline.check_features(image.model, layer, output)
    headers = cache_headers(compute_etag(request, output.format), service.settings)
    if response := not_modified(request, headers):
        return response
    async with cancel_on_disconnect(request), service.pipeline.admit(image.model):
        response = _respond(await service.pipeline.features(image, layer, output), output)
    response.headers.update(headers)
    return response


def _list_layers(params: FeaturesParams, model: Model) -> Response:
    params.check_listing(model.manifest)
    layers = list(map(layer_info, model.manifest.layers))
    return json_response(LayersAnswer(model=model_name(model.manifest), layers=layers))


def _respond(features: FeatureMap, output: FeatureOutput) -> Response:
    if features.encoded is not None:
        return binary_response(features.encoded, output.format)
    return json_response(features_answer(features, output))
