"""`/v2`: the Open Inference Protocol, for KServe and the clients of Triton and others.

Requests come in; tensors leave as JSON or binary. Failures are problem details, as of the other endpoints, with the
protocol's member `error` in addition. `/v2/repository` is in `repository_routes.py`.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError

from percept import __version__, errors
from percept.api.body import ENVELOPE_BYTES, read_body
from percept.api.disconnect import cancel_on_disconnect
from percept.api.negotiation import MEDIA_TYPES
from percept.api.openapi import IMAGE_ERRORS, inline_schema, problem_responses
from percept.api.routing import DirectRoute, documentation_only
from percept.api.state import AppState, Service
from percept.errors import BadParameter, BadRequest, ImageTooLarge, format_validation_errors
from percept.oip.codec import InferRequest, InferResponse, decode_request, encode_response
from percept.oip.inference import ParsedRequest, output_tensors, parse_request
from percept.oip.metadata import (
    EXTENSIONS,
    Live,
    ModelConfig,
    ModelMetadata,
    ModelNames,
    ModelReady,
    Ready,
    ServerMetadata,
    model_configuration,
    model_metadata,
)
from percept.pipeline import Inferred
from percept.runtime.model import Model
from percept.settings import Settings
from percept.telemetry.context import stage

JSON_BYTES = "Inference-Header-Content-Length"  # header: the number of bytes of JSON before binary data
MAX_DIGITS = 20  # of a value of this header
# A worker thread decodes and encodes more bytes than this, so that the event loop is not blocked.
MAX_EVENT_LOOP_BYTES = 2**16

REQUEST_BODY = {
    "required": True,
    "description": f"A JSON object. If the header `{JSON_BYTES}` states its length, binary tensor data follow it.",
    "content": {MEDIA_TYPES["json"]: {"schema": inline_schema(InferRequest)}},
}
MODEL_ERRORS = problem_responses(errors.UnknownModel, errors.BadParameter, errors.NotReady)
INFERENCE_ERRORS = (
    errors.UnknownLayer,
    errors.UnknownClass,
    errors.TargetAbsent,
    errors.GradientsUnavailable,
    errors.MethodUnavailable,
)

router = APIRouter(prefix="/v2", tags=["open inference protocol"])
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class ModelPath(BaseModel):
    """The model that a path names; without a version its newest one."""

    name: str
    version: int | None = None


async def model_path(request: Request) -> ModelPath:
    """The model that the path of a request names; raises `BadParameter`."""
    try:
        return ModelPath.model_validate(request.path_params)
    except ValidationError as error:
        raise BadParameter(format_validation_errors(error)) from error


async def find_model(path: Annotated[ModelPath, Depends(model_path)], service: Service) -> Model:
    """The model that the path of a request names; raises `UnknownModel`, `BadParameter` or `NotReady`."""
    return service.find_model(path.name, path.version)


RequestedModel = Annotated[Model, Depends(find_model)]


@documentation_only
async def path_name(name: Annotated[str, Path(description="name of the model", examples=["cifar10"])]) -> None:
    """Declare the name in the path for OpenAPI; `model_path` reads it."""


@documentation_only
async def path_version(version: Annotated[int, Path(description="version of the model", examples=[1])]) -> None:
    """Declare the version in the path for OpenAPI; `model_path` reads it."""


MODEL_PATHS = {
    "/models/{name}": [Depends(path_name)],
    "/models/{name}/versions/{version}": [Depends(path_name), Depends(path_version)],
}


def model_route(method: str, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
    """Add an endpoint of one model to `router`, for both forms of the model's path.

    A router within `router` would do the same, but the metrics, logs and traces would then name the endpoint `path`
    alone: FastAPI gives middleware the path of a route without the prefixes of the routers that include it.
    """

    def add(endpoint: Endpoint) -> Endpoint:
        for prefix, dependencies in MODEL_PATHS.items():
            router.add_api_route(
                prefix + path,
                endpoint,
                methods=[method],
                dependencies=dependencies,
                route_class_override=DirectRoute,
                **options,
            )
        return endpoint

    return add


@router.get("", summary="Server metadata")
async def server() -> ServerMetadata:
    """Return the server's name and version, and the extensions of the protocol that it supports."""
    return ServerMetadata(name="percept", version=__version__, extensions=EXTENSIONS)


@router.get("/health/live", summary="Liveness probe")
async def live() -> Live:
    """Respond 200 while the process runs."""
    return Live()


@router.get("/health/ready", summary="Readiness probe", responses=problem_responses(errors.NotReady))
async def ready(service: Service) -> Ready:
    """Respond as `/health/ready`."""
    service.check_ready()
    return Ready()


@router.get("/models", summary="List the models")
async def models(service: Service) -> ModelNames:
    """List the names of all served models."""
    return ModelNames(models=[model.manifest.name for model in service.repository.models])


@model_route("GET", "", summary="Metadata of a model", responses=MODEL_ERRORS)
async def model(model: RequestedModel, service: Service) -> ModelMetadata:
    """Return the versions of a model, and the tensors that it accepts and returns."""
    return model_metadata(model.manifest, service.repository.versions(model.manifest.name))


@model_route("GET", "/config", summary="Triton configuration of a model", responses=MODEL_ERRORS)
async def config(model: RequestedModel, service: Service) -> ModelConfig:
    """Return the tensors of a model, and the maximum number of images in one request."""
    return model_configuration(model.manifest, service.settings.max_images)


@model_route("GET", "/ready", summary="Readiness of a model", responses=MODEL_ERRORS)
async def model_ready(model: RequestedModel) -> ModelReady:
    """Respond 200 if the model is served, otherwise 404 or 503."""
    return ModelReady(name=model.manifest.name)


@model_route(
    "POST",
    "/infer",
    summary="Scores, feature maps and heatmaps as tensors",
    response_model=InferResponse,
    responses=problem_responses(*IMAGE_ERRORS, *INFERENCE_ERRORS),
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def infer(request: Request, path: Annotated[ModelPath, Depends(model_path)], service: Service) -> Response:
    """Run a model on a batch of images. The response has the results of all images, or an error.

    The input is either `image`, BYTES [N,1] or [N], encoded files, or `pixels`, UINT8 [N,H,W,C], as the network takes
    them. The outputs are `scores` (the default), `logits`, every layer, `cam` [N,h,w] and `cam_target` [N]. The
    parameter `cam`, true or the name of a method, also requests a map. The parameters `method`, `target`, `against` and
    `layer`, of the request or of the output `cam`, mean the same as those of `/cam`; `scale` is `raw` or `unit`.
    """
    model = service.find_model(path.name, path.version)
    model.queue.check_capacity()
    body, json_bytes = await _read_body(request, service.settings)
    async with cancel_on_disconnect(request), service.pipeline.admit(model):
        return await _infer(service, model, body, json_bytes)


async def _read_body(request: Request, settings: Settings) -> tuple[bytes, int | None]:
    """Receive a bounded body, and the number of its bytes that are JSON if binary data follow."""
    with stage("receive"):
        body = await read_body(request, settings.max_image_bytes * settings.max_images + ENVELOPE_BYTES)
    declared = request.headers.get(JSON_BYTES)
    if declared is not None and not (declared.isdecimal() and len(declared) < MAX_DIGITS):
        raise BadRequest(f"{JSON_BYTES} must be a number of bytes, not {declared[:MAX_DIGITS]!r}")
    json_bytes = None if declared is None else int(declared)
    # JSON is parsed in one step, during which no other thread can run Python code.
    if (len(body) if json_bytes is None else json_bytes) > settings.max_image_bytes:
        raise ImageTooLarge(f"the JSON has more than {settings.max_image_bytes} bytes: send binary tensor data")
    return body, json_bytes


async def _infer(service: AppState, model: Model, body: bytes, json_bytes: int | None) -> Response:
    pipeline, run = service.pipeline, service.pipeline.workers.run
    small = (json_bytes or len(body)) <= MAX_EVENT_LOOP_BYTES
    request, tensors = decode_request(body, json_bytes) if small else await run(decode_request, body, json_bytes)
    parsed = parse_request(model, request, tensors, service.settings.max_images)
    question = await pipeline.resolve(model, parsed.question) if parsed.question else None
    results = await pipeline.infer(model, parsed.images, parsed.trunk_outputs, question)
    arguments = model, parsed, request.id, results
    small = sum(result.nbytes for result in results) <= MAX_EVENT_LOOP_BYTES
    return _encode_response(*arguments) if small else await run(_encode_response, *arguments)


@stage("render")
def _encode_response(model: Model, parsed: ParsedRequest, id: str | None, results: Sequence[Inferred]) -> Response:
    manifest = model.manifest
    response = InferResponse(model_name=manifest.name, model_version=str(manifest.version), id=id)
    body, json_bytes = encode_response(response, output_tensors(manifest, parsed, results))
    if json_bytes is None:
        return Response(body, media_type=MEDIA_TYPES["json"])
    return Response(body, media_type="application/octet-stream", headers={JSON_BYTES: str(json_bytes)})
