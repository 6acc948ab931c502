"""The parameters that endpoints share, and what a route reaches through the application's state."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from percept import __version__, errors
from percept.api.negotiation import MEDIA_TYPES
from percept.errors import BadParameter, UnknownImage
from percept.pipeline import Pipeline
from percept.runtime.image_cache import Kept
from percept.runtime.model import Model
from percept.runtime.repository import Repository
from percept.settings import Settings
from percept.telemetry.context import concerns
from percept.telemetry.metrics import Metrics

VERSION = __version__

Rules = Mapping[str, Mapping[str, Sequence[str]]]

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
    errors.DeadlineExceeded,
)


# What is asked about an image that is kept may be answered with.
KEPT_ERRORS = (
    errors.UnknownImage,
    errors.NotAcceptable,
    errors.BadParameter,
    errors.QueueFull,
    errors.DeadlineExceeded,
)


class State:
    """What `create_app` builds once and every route uses."""

    def __init__(self, settings: Settings, repository: Repository, pipeline: Pipeline, metrics: Metrics) -> None:
        self.settings, self.repository, self.pipeline, self.metrics = settings, repository, pipeline, metrics

    def check(self) -> None:
        """Raise `NotReady` while this service should not be sent any work."""
        self.repository.check()


async def state(request: Request) -> State:
    """The state of the application. Were it no coroutine, FastAPI would ask a thread for it at every request."""
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
        return find(repository, self.model, self.version)


def find(repository: Repository, name: str | None, version: int | None) -> Model:
    """The model that a request is about; raises `UnknownModel` or `NotReady`."""
    model = repository.find(name, version)
    concerns(model.manifest.name, model.manifest.version)
    return model


def kept(service: State, id: str) -> Kept:
    """The image that a request is about, sent by an earlier one; raises `UnknownImage`."""
    try:
        found = service.pipeline.store.find(id)
    except UnknownImage:
        service.metrics.lookups.labels("miss").inc()
        raise
    service.metrics.lookups.labels("hit").inc()
    concerns(found.model.manifest.name, found.model.manifest.version)
    return found


def changed(query: BaseModel) -> set[str]:
    """The parameters that are not at their defaults. Forms such as that of `/docs` send the defaults too."""
    fields = type(query).model_fields
    return {name for name in query.model_fields_set if getattr(query, name) != fields[name].get_default()}


def heed(query: BaseModel, rules: Rules, **here: str | None) -> None:
    """Raises `BadParameter` where a parameter is changed that does nothing here.

    `rules` say for a parameter what it is for: each name in `here`, such as `view`, with the values it may have then.
    """
    for name in sorted(changed(query) & rules.keys()):
        for what, where in rules[name].items():
            if here[what] not in where:
                other = f", not for {what}={here[what]}" if here[what] else ""
                raise BadParameter(f"{name} is for {what}={'|'.join(where)}{other}: it would do nothing here")


def tag(request: Request, *parts: object) -> str | None:
    """A strong ETag of an answer that these parts, the request's own URL and this version decide.

    None where the client has that answer already.
    """
    said = "\n".join(map(str, (VERSION, request.url.path, sorted(request.query_params.multi_items()), *parts)))
    found = f'"{sha256(said.encode()).hexdigest()[:32]}"'
    known = request.headers.get("if-none-match", "")
    return None if known.strip() == "*" or found in (one.strip() for one in known.split(",")) else found


def picture(data: bytes, name: str, headers: dict[str, str] | None = None) -> Response:
    """Bytes of a format as a response."""
    return Response(data, media_type=MEDIA_TYPES[name], headers=headers)


def written(answer: BaseModel, exclude_none: bool = True) -> Response:
    """An answer as JSON, written once: what FastAPI is given as a model it checks and copies again."""
    return Response(answer.model_dump_json(exclude_none=exclude_none), media_type=MEDIA_TYPES["json"])


def kept_answer(answer: Response, etag: str, settings: Settings) -> Response:
    """An answer about an image that is kept: the client may keep it as long, for the same `Accept`."""
    age = f"private, max-age={settings.store_s:.0f}"
    answer.headers.update({"ETag": etag, "Cache-Control": age, "Vary": "Accept"})
    return answer


def documented_formats(*names: str) -> dict[str, Any]:
    """The `content` of a route's 200 in OpenAPI for the formats besides JSON."""
    return {MEDIA_TYPES[name]: {"schema": {"type": "string", "format": "binary"}} for name in names}
