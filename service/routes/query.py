"""The parameters that endpoints share, and what a route reaches through the application's state."""

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from service import errors
from service.media import MEDIA_TYPES
from service.pipeline import Pipeline
from service.repository import Model, Repository
from service.settings import Settings

# What any endpoint that takes an image may answer with.
IMAGE_ERRORS = (
    errors.BadRequest,
    errors.UnknownModel,
    errors.NotAcceptable,
    errors.ImageTooLarge,
    errors.NotAnImage,
    errors.UnsupportedMediaType,
    errors.BrokenImage,
    errors.BadParameter,
    errors.QueueFull,
    errors.NotReady,
)


class State:
    """What `create_app` builds once and every route uses."""

    def __init__(self, settings: Settings, repository: Repository, pipeline: Pipeline) -> None:
        self.settings, self.repository, self.pipeline = settings, repository, pipeline


def state(request: Request) -> State:
    """The state of the application that serves this request."""
    found: State = request.app.state.percept
    return found


Service = Annotated[State, Depends(state)]


class ModelQuery(BaseModel):
    """Which model is asked; a parameter that does not exist is an error, not a silence."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = Field(None, description="name of the model; default: the service's own")
    version: int | None = Field(None, description="version of the model; default: the newest")

    def find(self, repository: Repository) -> Model:
        """The model that is meant; raises `UnknownModel` or `NotReady`."""
        return repository.find(self.model, self.version)


def picture(data: bytes, name: str, headers: dict[str, str] | None = None) -> Response:
    """Bytes of a format as a response."""
    return Response(data, media_type=MEDIA_TYPES[name], headers=headers)


def documented_formats(*names: str) -> dict[str, Any]:
    """The `content` of a route's 200 in OpenAPI for the formats besides JSON."""
    return {MEDIA_TYPES[name]: {"schema": {"type": "string", "format": "binary"}} for name in names}
