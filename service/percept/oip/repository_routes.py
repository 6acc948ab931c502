"""`/v2/repository`: what bundles there are, and which are served; the repository extension of Triton's protocol."""

import asyncio
from typing import Annotated, TypeVar

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from percept import errors
from percept.api.body import ENVELOPE_BYTES, body
from percept.api.params import Service
from percept.api.problems import documented
from percept.errors import BadParameter, ControlDisabled, faults
from percept.settings import Settings

router = APIRouter(prefix="/v2/repository", tags=["open inference protocol"])

Wish = TypeVar("Wish", bound=BaseModel)
Name = Annotated[str, Path(examples=["cifar10"])]


class IndexRequest(BaseModel):
    """What of the repository is listed."""

    ready: bool = Field(False, description="only what is served")


class IndexEntry(BaseModel):
    """A bundle of the repository. A reason beside READY: its files have changed since, and cannot be served."""

    name: str = Field(examples=["cifar10"])
    version: str = Field(examples=["1"])
    state: str = Field(examples=["READY", "UNAVAILABLE"])
    reason: str = Field(examples=[""])


class ControlParameters(BaseModel):
    """The parameters of a wish to load or unload."""

    model_config = ConfigDict(extra="forbid")

    unload_dependents: bool = Field(False, description="no model depends on another")


class ControlRequest(BaseModel):
    """A wish to load or unload. Of Triton's parameters only the one that changes nothing here is known."""

    model_config = ConfigDict(extra="forbid")

    parameters: ControlParameters = ControlParameters()


@router.post("/index", summary="The repository", responses=documented(errors.BadParameter, errors.ImageTooLarge))
async def index(request: Request, service: Service) -> list[IndexEntry]:
    """Every bundle that is served or lies in the repository."""
    wish = await _wish(request, IndexRequest)
    return [
        IndexEntry(
            name=one.name,
            version=str(one.version),
            state="READY" if one.served else "UNAVAILABLE",
            reason=one.reason,
        )
        for one in await asyncio.to_thread(service.repository.index)
        if one.served or not wish.ready
    ]


CONTROL_ERRORS = documented(
    errors.ControlDisabled,
    errors.UnknownModel,
    errors.ImageTooLarge,
    errors.BadParameter,
    errors.BundleRefused,
    errors.NotReady,
)


@router.post("/models/{name}/load", summary="Load a model", responses=CONTROL_ERRORS)
async def load(request: Request, service: Service, name: Name) -> dict[str, str]:
    """Serve a model as its bundles are now: new versions, altered ones, and without those that are gone.

    Requests go on meanwhile, with what was served before. An altered bundle that breaks the contract is refused, and
    the one before it is served on.
    """
    await _check_control(request, service.settings)
    try:
        await asyncio.to_thread(service.repository.load_model, name)
    finally:
        service.pipeline.store.retain(service.repository.all)
    return {}


@router.post("/models/{name}/unload", summary="Unload a model", responses=CONTROL_ERRORS)
async def unload(request: Request, service: Service, name: Name) -> dict[str, str]:
    """Serve no version of a model any longer. Requests that it has begun to answer are answered."""
    await _check_control(request, service.settings)
    await asyncio.to_thread(service.repository.unload_model, name)
    service.pipeline.store.retain(service.repository.all)
    return {}


async def _check_control(request: Request, settings: Settings) -> None:
    if settings.model_control != "explicit":
        raise ControlDisabled(
            "models are loaded at the start; to load and unload them, set PERCEPT_MODEL_CONTROL=explicit"
        )
    await _wish(request, ControlRequest)


async def _wish(request: Request, kind: type[Wish]) -> Wish:
    """A small JSON body, of whatever media type: clients name none. Nothing stands for an empty object."""
    data = await body(request, ENVELOPE_BYTES)
    try:
        return kind.model_validate_json(data or b"{}")
    except ValidationError as error:
        raise BadParameter(faults(error)) from error
