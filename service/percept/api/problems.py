"""Errors → RFC 9457 problem details: one table from error to status, code and title, and the handlers that use it.

A problem has `type` (a URN of the code), `title`, `status`, `detail` for the person, and a stable `code` for the
program. Nothing else in the service names a status of failure.
"""

import logging
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from percept import errors
from percept.telemetry.context import current, refuse

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class Kind(NamedTuple):
    """What an error becomes."""

    status: int
    code: str
    title: str


PROBLEMS: dict[type[errors.PerceptError], Kind] = {
    errors.BadRequest: Kind(400, "bad_request", "The request cannot be read"),
    errors.ControlDisabled: Kind(403, "control_disabled", "Models cannot be loaded or unloaded here"),
    errors.UnknownModel: Kind(404, "unknown_model", "There is no such model"),
    errors.UnknownLayer: Kind(404, "unknown_layer", "The model has no such layer"),
    errors.UnknownFilters: Kind(404, "unknown_filters", "There is no such picture of filters"),
    errors.UnknownImage: Kind(404, "unknown_image", "The image is not kept"),
    errors.UnknownClass: Kind(404, "unknown_class", "The model has no such class"),
    errors.NotAcceptable: Kind(406, "not_acceptable", "No acceptable media type can be made"),
    errors.ImageTooLarge: Kind(413, "image_too_large", "The image is too large"),
    errors.NotAnImage: Kind(415, "not_an_image", "The bytes are no image"),
    errors.UnsupportedMediaType: Kind(415, "unsupported_media_type", "The media type carries no image"),
    errors.BrokenImage: Kind(422, "broken_image", "The image is broken"),
    errors.BadParameter: Kind(422, "bad_parameter", "A parameter is wrong"),
    errors.TargetAbsent: Kind(422, "target_absent", "The image has nothing of this class"),
    errors.GradientsUnavailable: Kind(422, "gradients_unavailable", "The layer has no gradients"),
    errors.MethodUnavailable: Kind(422, "method_unavailable", "The method does not work at this layer"),
    errors.BundleRefused: Kind(422, "bundle_refused", "A bundle of the model is refused"),
    errors.QueueFull: Kind(429, "queue_full", "Too many images are waiting"),
    errors.InferenceError: Kind(500, "inference_failed", "The model failed"),
    errors.BundleError: Kind(500, "broken_bundle", "The model's files are broken"),
    errors.DeviceError: Kind(500, "device_failed", "The device failed"),
    errors.NotReady: Kind(503, "not_ready", "No model is ready"),
    errors.DeadlineExceeded: Kind(504, "deadline_exceeded", "The answer took too long"),
}
# What endpoints raise, besides what FastAPI does itself.
EXPECTED = (errors.PerceptError, ClientDisconnect)
RETRY_AFTER_S = {503: 2}
PROTOCOL = "/v2/"  # here clients look for the `error` of the Open Inference Protocol
# What is counted as refused: nothing is wrong with what was asked, but it is not done. And why nobody reads an answer.
REFUSALS = ("queue_full", "deadline_exceeded", "not_ready")
ABANDONED = "abandoned"
CLIENT_CLOSED_REQUEST = 499  # as nginx has it in its log: no client ever sees it


class Problem(BaseModel):
    """Problem details as RFC 9457 defines them, and a stable `code`."""

    type: str = Field(examples=["urn:percept:problem:unknown_model"])
    title: str = Field(examples=["There is no such model"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["there is no model 'cifar'; there are cifar10, clothing"])
    code: str = Field(examples=["unknown_model"])
    instance: str | None = Field(
        None, description="the request that it answers, by its X-Request-ID", examples=["urn:percept:request:5f0c3a7e"]
    )


def describe(error: errors.PerceptError) -> Problem:
    """The problem that an error of Percept's own becomes: of a whole request, or of one image in it."""
    kind = PROBLEMS[type(error)]
    if kind.code in REFUSALS:
        refuse(kind.code)
    return _problem(kind.status, kind.code, kind.title, str(error))


def documented(*kinds: type[errors.PerceptError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route in OpenAPI for the errors that it may answer with."""
    codes: dict[int | str, list[str]] = {}
    for kind in kinds:
        codes.setdefault(PROBLEMS[kind].status, []).append(PROBLEMS[kind].code)
    return {
        status: {
            "description": ", ".join(f"`{name}`" for name in names),
            "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
        }
        for status, names in sorted(codes.items(), key=str)
    }


def inlined(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model without references, which OpenAPI would look for in the whole document."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            name = value.get("$ref", "").removeprefix("#/$defs/")
            return whole(parts[name]) if name else {key: whole(one) for key, one in value.items()}
        return [whole(one) for one in value] if isinstance(value, list) else value

    found: dict[str, Any] = whole(schema)
    return found


def install(app: FastAPI) -> None:
    """Let every failure of `app` leave as a problem."""
    for kind in EXPECTED:
        app.add_exception_handler(kind, respond)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, unexpected)


async def respond(request: Request, error: Exception) -> Response:
    """The answer to one of the `EXPECTED` failures."""
    if isinstance(error, ClientDisconnect):  # nobody reads this, and it is nobody's fault
        refuse(ABANDONED)
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    assert isinstance(error, errors.PerceptError)
    problem = describe(error)
    if problem.status >= 500:
        level = logging.WARNING if problem.code in REFUSALS else logging.ERROR
        log.log(level, "%s %s: %s", request.method, request.url.path, error)
    retry = {"Retry-After": str(error.retry_s)} if isinstance(error, errors.QueueFull) else None
    return _respond(request, problem, retry)


def _problem(status: int, code: str, title: str, detail: str) -> Problem:
    return Problem(type=f"urn:percept:problem:{code}", title=title, status=status, detail=detail, code=code)


def _respond(request: Request, problem: Problem, headers: dict[str, str] | None = None) -> Response:
    headers = dict(headers or {})
    if problem.status in RETRY_AFTER_S:
        headers["Retry-After"] = str(RETRY_AFTER_S[problem.status])
    account = current()
    if account is not None:
        problem = problem.model_copy(update={"instance": f"urn:percept:request:{account.id}"})
    content = problem.model_dump(exclude_none=True)
    if request.url.path.startswith(PROTOCOL):
        content["error"] = problem.detail
    return JSONResponse(content, problem.status, headers, media_type=MEDIA_TYPE)


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())
    kind = PROBLEMS[errors.BadParameter]
    return _respond(request, _problem(kind.status, kind.code, kind.title, faults))


async def _on_http(request: Request, error: Exception) -> Response:
    """Routing's own refusals: no such path, wrong method."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = status.phrase.lower().replace(" ", "_")
    detail = f"{request.method} {request.url.path}: see /docs for what there is"
    return _respond(request, _problem(status, code, status.phrase, detail), dict(error.headers or {}))


async def unexpected(request: Request, error: Exception) -> Response:
    """The answer to a fault of ours, which is to be raised again: the server logs the traceback."""
    detail = "an unexpected fault of the service; its log has the traceback"
    return _respond(request, _problem(500, "internal_error", "Internal error", detail))
