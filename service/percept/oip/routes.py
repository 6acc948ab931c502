"""`/v2`: the Open Inference Protocol, for KServe and the clients of Triton and others. `control` has its repository.

Failures are the same problems as everywhere, with the protocol's `error` beside the `detail`.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from percept import errors
from percept.api.body import ENVELOPE_BYTES, attended, body
from percept.api.negotiation import MEDIA_TYPES
from percept.api.params import IMAGE_ERRORS, VERSION, Service, State, find
from percept.api.problems import documented, inlined
from percept.errors import BadRequest, ImageTooLarge, UnsupportedMediaType
from percept.oip.codec import InferRequest, InferResponse, read, write
from percept.oip.inference import Inference, outputs, understand
from percept.oip.metadata import ModelConfig, ModelMetadata, configuration, metadata
from percept.pipeline import Inferred
from percept.runtime.model import Model
from percept.settings import Settings
from percept.telemetry.context import stage

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository"]
JSON_BYTES = "Inference-Header-Content-Length"  # header: how many bytes of a body are JSON, where binary data follow
MAX_DIGITS = 20
BRIEF_BYTES = 2**16  # are read and written at once; more of them on a thread

Name = Annotated[str, Path(examples=["cifar10"])]
Version = Annotated[int, Path(examples=[1])]


class Which(BaseModel):
    """The model that a path names."""

    model_config = ConfigDict(extra="forbid")

    name: str
    version: int | None = None


async def newest(service: Service, name: Name) -> Model:
    """The newest version of the model that a path names."""
    return find(service.repository, name, None)


async def numbered(service: Service, name: Name, version: Version) -> Model:
    """The version that a path names."""
    return find(service.repository, name, version)


Newest = Annotated[Model, Depends(newest)]
Numbered = Annotated[Model, Depends(numbered)]
MODEL_ERRORS = documented(errors.UnknownModel, errors.BadParameter, errors.NotReady)


class ServerMetadata(BaseModel):
    """What answers here."""

    name: str = Field(examples=["percept"])
    version: str
    extensions: list[str] = Field(examples=[EXTENSIONS])


class Live(BaseModel):
    """The process lives."""

    live: bool = True


class Ready(BaseModel):
    """Requests can be answered."""

    ready: bool = True


class ModelReady(Ready):
    """A model can answer."""

    name: str = Field(examples=["cifar10"])


class ModelNames(BaseModel):
    """The models that are served."""

    models: list[str] = Field(examples=[["cifar10", "clothing"]])


@router.get("", summary="What answers")
async def server() -> ServerMetadata:
    """The server, and the extensions of the protocol that it has."""
    return ServerMetadata(name="percept", version=VERSION, extensions=EXTENSIONS)


@router.get("/health/live", summary="Whether the process lives")
async def live() -> Live:
    """200 as long as the process answers at all."""
    return Live()


@router.get("/health/ready", summary="Whether a model can answer", responses=documented(errors.NotReady))
async def ready(service: Service) -> Ready:
    """As `/health/ready`."""
    service.check()
    return Ready()


@router.get("/models", summary="The models")
async def models(service: Service) -> ModelNames:
    """The names of all models."""
    return ModelNames(models=[model.manifest.name for model in service.repository.models])


@router.get("/models/{name}", summary="One model", responses=MODEL_ERRORS)
async def model(model: Newest, service: Service) -> ModelMetadata:
    """The tensors that a model takes and gives."""
    return metadata(model.manifest, service.repository.versions(model.manifest.name))


@router.get("/models/{name}/versions/{version}", summary="One version of a model", responses=MODEL_ERRORS)
async def model_version(model: Numbered, service: Service) -> ModelMetadata:
    """The tensors that a version of a model takes and gives."""
    return metadata(model.manifest, service.repository.versions(model.manifest.name))


@router.get("/models/{name}/config", summary="One model, in Triton's words", responses=MODEL_ERRORS)
async def config(model: Newest, service: Service) -> ModelConfig:
    """The tensors of a model, and how many images go into one request."""
    return configuration(model.manifest, service.settings.max_images)


@router.get("/models/{name}/versions/{version}/config", summary="The same of a version", responses=MODEL_ERRORS)
async def config_version(model: Numbered, service: Service) -> ModelConfig:
    """The tensors of a version of a model, and how many images go into one request."""
    return configuration(model.manifest, service.settings.max_images)


@router.get("/models/{name}/ready", summary="Whether a model can answer", responses=MODEL_ERRORS)
async def model_ready(model: Newest) -> ModelReady:
    """200 where the model is served, 404 or 503 where not."""
    return ModelReady(name=model.manifest.name)


@router.get("/models/{name}/versions/{version}/ready", summary="The same of a version", responses=MODEL_ERRORS)
async def model_version_ready(model: Numbered) -> ModelReady:
    """200 where the version is served, 404 or 503 where not."""
    return ModelReady(name=model.manifest.name)


DESCRIPTION = f"A JSON object; where `{JSON_BYTES}` says how long it is, binary tensor data follow it."
INFERENCE: dict[str, Any] = {
    "response_model": InferResponse,
    "responses": documented(*IMAGE_ERRORS, errors.UnknownLayer, errors.UnknownClass, errors.TargetAbsent),
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "description": DESCRIPTION,
            "content": {"application/json": {"schema": inlined(InferRequest)}},
        }
    },
}


@router.post("/models/{name}/infer", summary="Scores, layers and heatmaps as tensors", **INFERENCE)
async def inference(request: Request, service: Service, name: Name) -> Response:
    """What a model gives for a batch of images: all of it or an error.

    The input is either `image`, BYTES [N,1] or [N], encoded files, or `pixels`, UINT8 [N,H,W,3], as the network takes
    them. Outputs are `scores` (which is what comes where none is named), `logits`, every layer, `cam` [N,h,w] and
    `cam_target` [N]. A map comes also with the parameter `cam`, true or the name of a method; `method`, `target`,
    `against` and `layer` are those of `/cam`, `scale` is `raw` or `unit`, of the request or of the output `cam`.
    """
    return await infer(request, Which(name=name), service)


@router.post("/models/{name}/versions/{version}/infer", summary="The same of a version", **INFERENCE)
async def inference_version(request: Request, service: Service, name: Name, version: Version) -> Response:
    """As that of a model without a version, which is its newest."""
    return await infer(request, Which(name=name, version=version), service)


async def infer(request: Request, which: Which, service: State) -> Response:
    """The answer to an inference request."""
    model = find(service.repository, which.name, which.version)
    model.queue.check()
    data, json_bytes = await _received(request, service.settings)
    return await attended(request, _inferred(service, model, data, json_bytes))


async def _inferred(service: State, model: Model, data: bytes, json_bytes: int | None) -> Response:
    pipeline, work = service.pipeline, service.pipeline.work
    brief = (json_bytes or len(data)) <= BRIEF_BYTES
    request, tensors = read(data, json_bytes) if brief else await work(read, data, json_bytes)
    asked = understand(model, request, tensors, service.settings.max_images)
    found = await pipeline.infer(model, asked.images, asked.outputs, asked.question)
    brief = sum(one.nbytes for one in found) <= BRIEF_BYTES
    return _written(model, asked, request.id, found) if brief else await work(_written, model, asked, request.id, found)


async def _received(request: Request, settings: Settings) -> tuple[bytes, int | None]:
    """The body, and how many bytes of it are JSON where binary data follow; both bounded."""
    if (coding := request.headers.get("content-encoding", "identity")) != "identity":
        raise UnsupportedMediaType(f"a body in {coding} is not read; send it as it is")
    with stage("receive"):
        data = await body(request, settings.max_image_bytes * settings.max_images + ENVELOPE_BYTES)
    said = request.headers.get(JSON_BYTES)
    if said is not None and not (said.isdecimal() and len(said) < MAX_DIGITS):
        raise BadRequest(f"{JSON_BYTES} is a number of bytes, not {said[:MAX_DIGITS]!r}")
    json_bytes = None if said is None else int(said)
    # It is parsed in one go, which holds up everybody.
    if (len(data) if json_bytes is None else json_bytes) > settings.max_image_bytes:
        raise ImageTooLarge(f"the JSON has more than {settings.max_image_bytes} bytes: send binary tensor data")
    return data, json_bytes


@stage("render")
def _written(model: Model, asked: Inference, id: str | None, found: Sequence[Inferred]) -> Response:
    manifest = model.manifest
    answer = InferResponse(model_name=manifest.name, model_version=str(manifest.version), id=id)
    data, json_bytes = write(answer, outputs(manifest, asked, found))
    if json_bytes is None:
        return Response(data, media_type=MEDIA_TYPES["json"])
    return Response(data, media_type="application/octet-stream", headers={JSON_BYTES: str(json_bytes)})
