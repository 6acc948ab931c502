"""`/v2/repository`: list, load and unload models (the model repository extension of Triton's protocol).

Requests come in; JSON leaves. The work on bundles is that of `percept.runtime.repository`.
"""

import asyncio
from typing import Annotated, TypeVar

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from percept import errors
from percept.api.body import ENVELOPE_BYTES, read_body
from percept.api.openapi import problem_responses
from percept.api.state import Service
from percept.errors import BadParameter, ControlDisabled, format_validation_errors
from percept.settings import Settings

router = APIRouter(prefix="/v2/repository", tags=["open inference protocol"])

Body = TypeVar("Body", bound=BaseModel)
Name = Annotated[str, Path(description="name of the model", examples=["cifar10"])]


class IndexRequest(BaseModel):
    """Which bundles are listed."""

    ready: bool = Field(False, description="only the bundles that are served")


class IndexEntry(BaseModel):
    """A bundle of the repository.

    A reason beside READY means that the bundle's files changed after the load, and that the new files are invalid.
    """

    name: str = Field(examples=["cifar10"])
    version: str = Field(examples=["1"])
    state: str = Field(examples=["READY", "UNAVAILABLE"])
    reason: str = Field(examples=[""])


class ControlParameters(BaseModel):
    """The parameters of a load or unload request."""

    model_config = ConfigDict(extra="forbid")

    unload_dependents: bool = Field(False, description="has no effect: no model depends on another")


class ControlRequest(BaseModel):
    """A load or unload request. The only parameter of Triton's that is accepted has no effect here."""

    model_config = ConfigDict(extra="forbid")

    parameters: ControlParameters = ControlParameters()


@router.post(
    "/index", summary="List the repository", responses=problem_responses(errors.BadParameter, errors.ImageTooLarge)
)
async def index(request: Request, service: Service) -> list[IndexEntry]:
    """List every bundle that is served or in the repository's folder."""
    params = await _read_json(request, IndexRequest)
    return [
        IndexEntry(
            name=entry.name,
            version=str(entry.version),
            state="READY" if entry.served else "UNAVAILABLE",
            reason=entry.reason,
        )
        for entry in await asyncio.to_thread(service.repository.index)
        if entry.served or not params.ready
    ]


CONTROL_ERRORS = problem_responses(
    errors.ControlDisabled,
    errors.UnknownModel,
    errors.ImageTooLarge,
    errors.BadParameter,
    errors.BundleRefused,
    errors.NotReady,
)


@router.post("/models/{name}/load", summary="Load a model", responses=CONTROL_ERRORS)
async def load(request: Request, service: Service, name: Name) -> dict[str, str]:
    """Load new and changed versions of a model, and unload versions whose bundles were deleted.

    Until the load ends, requests use the versions loaded before. A changed bundle that violates the contract is
    refused, and the version loaded before is still served.
    """
    await _check_control(request, service.settings)
    try:
        await asyncio.to_thread(service.repository.load_model, name)
    finally:
        service.pipeline.cache.retain(service.repository.all_versions)
    return {}


@router.post("/models/{name}/unload", summary="Unload a model", responses=CONTROL_ERRORS)
async def unload(request: Request, service: Service, name: Name) -> dict[str, str]:
    """Unload all versions of a model. Requests in progress are completed."""
    await _check_control(request, service.settings)
    await asyncio.to_thread(service.repository.unload_model, name)
    service.pipeline.cache.retain(service.repository.all_versions)
    return {}


async def _check_control(request: Request, settings: Settings) -> None:
    if settings.model_control != "explicit":
        raise ControlDisabled(
            "models are loaded at startup only; set PERCEPT_MODEL_CONTROL=explicit to load and unload them"
        )
    await _read_json(request, ControlRequest)


async def _read_json(request: Request, kind: type[Body]) -> Body:
    """Receive a small JSON body of any media type, because clients send none; an empty body is an empty object."""
    data = await read_body(request, ENVELOPE_BYTES)
    try:
        return kind.model_validate_json(data or b"{}")
    except ValidationError as error:
        raise BadParameter(format_validation_errors(error)) from error
