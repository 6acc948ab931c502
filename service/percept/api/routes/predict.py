"""`POST /predict`: the classes of a classifier; the mask of a segmenter as numbers, a picture or an overlay."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from percept.api.body import read_image
from percept.api.disconnect import cancel_on_disconnect
from percept.api.form import form_request_body, read_form
from percept.api.openapi import IMAGE_ERRORS, format_responses, problem_responses
from percept.api.predict_params import PredictParams
from percept.api.problems import Problem, describe_problem
from percept.api.responses import binary_response, json_response
from percept.api.routing import DirectRoute
from percept.api.schemas.images import BatchAnswer, PredictAnswer, predict_answer
from percept.api.state import Service
from percept.errors import BadParameter, PerceptError
from percept.pipeline import PostedImage, Predicted

router = APIRouter(tags=["images"], route_class=DirectRoute)


@router.post(
    "/predict",
    summary="Classes or a mask",
    response_model=PredictAnswer | BatchAnswer,
    responses={
        200: {"content": format_responses("png", "jpeg", "webp")},
        **problem_responses(*IMAGE_ERRORS),
    },
    openapi_extra={"requestBody": form_request_body(PredictParams)},
)
async def predict(request: Request, params: Annotated[PredictParams, Query()], service: Service) -> Response:
    """Run a model on an image.

    A classifier returns its best classes with scores. A segmenter returns the share of each class; with
    `Accept: image/png` the mask as an indexed PNG exactly as large as the photo, with `view=overlay` the mask laid
    over it. Several files in one request return `results` in order, each a result or a problem.
    """
    params, files = await read_form(request, params, service)
    model = service.find_model(params.model, params.version)
    picture = params.picture(model.manifest, request.headers.get("accept"))
    model.queue.check_capacity()
    files = files or [await read_image(request, service.settings)]
    images = [PostedImage(model, data) for data in files]
    if len(images) > 1 and picture:
        raise BadParameter("several images are only possible in JSON: remove format and view, or send one image")
    async with cancel_on_disconnect(request), service.pipeline.admit(model) as deadline:
        if len(images) > 1:
            found = await service.pipeline.predict_each(images, params.top_k, deadline)
            return json_response(BatchAnswer(results=list(map(_result, found))))
        predicted = await service.pipeline.predict(images[0], params.top_k, picture)
    if predicted.encoded and picture:
        return binary_response(predicted.encoded, picture.format)
    return json_response(predict_answer(predicted))


def _result(found: Predicted | PerceptError) -> PredictAnswer | Problem:
    return describe_problem(found) if isinstance(found, PerceptError) else predict_answer(found)
