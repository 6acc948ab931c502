"""`POST /predict`: classes of a classifier; the mask of a segmenter, as numbers, a picture or an overlay."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field

from percept.api.body import REQUEST_BODY, attended, images
from percept.api.negotiation import choose
from percept.api.params import IMAGE_ERRORS, ModelQuery, Rules, Service, documented_formats, heed, picture, written
from percept.api.problems import Problem, describe, documented
from percept.api.schemas.images import BatchAnswer, PredictAnswer, predict_answer
from percept.errors import BadParameter, PerceptError
from percept.imaging.overlay import encode, mask_overlay, mask_picture
from percept.pipeline import TOP_K, Pipeline, Predicted
from percept.runtime.model import Model
from percept.tasks.table import mask
from percept.telemetry.context import stage

router = APIRouter(tags=["images"])

OFFERED = {
    None: ("json", "png"),
    "mask": ("png", "webp"),
    "overlay": ("jpeg", "png", "webp"),
}
# Where a parameter does something.
RULES: Rules = {"top_k": {"task": ("classification",)}, "alpha": {"view": ("overlay",)}}


class PredictQuery(ModelQuery):
    """The parameters of `/predict`."""

    top_k: int = Field(TOP_K, ge=1, description="classes of a classifier's answer")
    view: Literal["mask", "overlay"] | None = Field(None, description="segmentation: what to show")
    format: Literal["json", "jpeg", "png", "webp"] | None = Field(None, description="instead of the Accept header")
    alpha: float = Field(0.6, ge=0, le=1, description="opacity of an overlay")


@router.post(
    "/predict",
    summary="Classes or a mask",
    response_model=PredictAnswer | BatchAnswer,
    responses={
        200: {"content": documented_formats("png", "jpeg", "webp")},
        **documented(*IMAGE_ERRORS),
    },
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def predict(request: Request, query: Annotated[PredictQuery, Query()], service: Service) -> Response:
    """What a model sees in an image.

    A classifier gives its best classes with scores. A segmenter gives the share of each class; with
    `Accept: image/png` the mask as an indexed PNG exactly as large as the photo, with `view=overlay` the mask laid
    over it. Several files in one request give `results` in order, each a result or a problem.
    """
    model = query.find(service.repository)
    name = _format(query, model, request.headers.get("accept"))
    model.queue.check()
    found = await images(request, service.settings)
    if len(found) > 1:
        if name != "json":
            raise BadParameter("several images can only be answered in JSON")
        results = [await attended(request, _result(service.pipeline, model, data, query.top_k)) for data in found]
        return written(BatchAnswer(results=results))
    predicted = await attended(request, service.pipeline.predict(model, found[0], query.top_k))
    if name == "json":
        return written(predict_answer(predicted))
    return picture(await service.pipeline.work(_draw, predicted, query, name), name)


def _format(query: PredictQuery, model: Model, accept: str | None) -> str:
    heed(query, RULES, task=model.manifest.task, view=query.view)
    if model.manifest.task == "segmentation":
        return choose(query.format, accept, OFFERED[query.view])
    if query.view is not None:
        raise BadParameter(f"model {model.manifest.name!r} is a classifier: it has no {query.view}")
    return choose(query.format, accept, ("json",))


async def _result(pipeline: Pipeline, model: Model, data: bytes, top_k: int) -> PredictAnswer | Problem:
    try:
        return predict_answer(await pipeline.predict(model, data, top_k))
    except PerceptError as error:
        return describe(error)


@stage("render")
def _draw(predicted: Predicted, query: PredictQuery, name: str) -> bytes:
    manifest, view = predicted.view.model.manifest, predicted.view
    labels = mask(predicted.logits, view.geometry)
    if query.view == "overlay":
        drawn = mask_overlay(view.photo, labels, manifest.palette, manifest.background, query.alpha)
    else:
        drawn = mask_picture(labels, manifest.palette)
    return encode(drawn, name)
