"""Errors become RFC 9457 problem details: a table of status, code and title, and the exception handlers that use it.

An exception comes in; a response of type `application/problem+json` leaves. `detail` is for people, `code` is stable
and for programs. No other module chooses the status of a failure.
"""

import logging
from http import HTTPStatus
from typing import NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from percept import errors
from percept.telemetry.context import current_request, record_refusal

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class ProblemType(NamedTuple):
    """The status, code and title that all errors of one class share."""

    status: int
    code: str
    title: str


PROBLEMS: dict[type[errors.PerceptError], ProblemType] = {
    errors.BadRequest: ProblemType(400, "bad_request", "The request is malformed"),
    errors.ControlDisabled: ProblemType(403, "control_disabled", "Loading and unloading of models is disabled"),
    errors.UnknownModel: ProblemType(404, "unknown_model", "There is no such model"),
    errors.UnknownLayer: ProblemType(404, "unknown_layer", "The model has no such layer"),
    errors.UnknownFilters: ProblemType(404, "unknown_filters", "There is no such filter picture"),
    errors.UnknownImage: ProblemType(404, "unknown_image", "The image is not cached"),
    errors.UnknownClass: ProblemType(404, "unknown_class", "The model has no such class"),
    errors.NotAcceptable: ProblemType(406, "not_acceptable", "No acceptable media type is available"),
    errors.ImageTooLarge: ProblemType(413, "image_too_large", "The image is too large"),
    errors.NotAnImage: ProblemType(415, "not_an_image", "The bytes are not an image of an accepted format"),
    errors.UnsupportedMediaType: ProblemType(415, "unsupported_media_type", "The media type is not supported"),
    errors.BrokenImage: ProblemType(422, "broken_image", "The image cannot be decoded"),
    errors.BadParameter: ProblemType(422, "bad_parameter", "A parameter is invalid"),
    errors.TargetAbsent: ProblemType(422, "target_absent", "The class is absent from the image"),
    errors.NetworkNotFinite: ProblemType(422, "network_not_finite", "The network computed values that are not finite"),
    errors.GradientsUnavailable: ProblemType(422, "gradients_unavailable", "The layer has no gradients"),
    errors.MethodUnavailable: ProblemType(422, "method_unavailable", "The method does not work at this layer"),
    errors.BundleRefused: ProblemType(422, "bundle_refused", "A bundle of the model is refused"),
    errors.QueueFull: ProblemType(429, "queue_full", "The queue is full"),
    errors.InferenceError: ProblemType(500, "inference_failed", "Inference failed"),
    errors.BundleError: ProblemType(500, "broken_bundle", "The model's bundle is invalid"),
    errors.DeviceError: ProblemType(500, "device_failed", "The device failed"),
    errors.NotReady: ProblemType(503, "not_ready", "No model is ready"),
    errors.DeadlineExceeded: ProblemType(504, "deadline_exceeded", "The deadline was exceeded"),
}
# The codes of valid requests that the service did not process; the metrics count them.
REFUSAL_CODES = ("queue_full", "deadline_exceeded", "not_ready")
# A request whose client disconnected is counted under this code. The status is the one that nginx logs; no client
# receives it.
ABANDONED = "abandoned"
CLIENT_CLOSED_REQUEST = 499
# The exceptions that endpoints raise, besides those of FastAPI.
EXPECTED_ERRORS = (errors.PerceptError, ClientDisconnect)
RETRY_AFTER_S = {503: 2}  # by status; the `Retry-After` of a 429 is computed by the queue (`QueueFull.retry_s`)
PROTOCOL_PREFIX = "/v2/"  # clients of the Open Inference Protocol read the member `error`


class Problem(BaseModel):
    """Problem details as RFC 9457 defines them, and a stable `code`."""

    type: str = Field(examples=["urn:percept:problem:unknown_model"])
    title: str = Field(examples=["There is no such model"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["there is no model 'cifar'; there are cifar10, clothing"])
    code: str = Field(examples=["unknown_model"])
    instance: str | None = Field(
        None, description="the request, by its X-Request-ID", examples=["urn:percept:request:5f0c3a7e"]
    )


def describe_problem(error: errors.PerceptError) -> Problem:
    """Return the problem details of an error, and record a refusal.

    The error may be that of a whole request, or that of one image among several.
    """
    kind = PROBLEMS[type(error)]
    if kind.code in REFUSAL_CODES:
        record_refusal(kind.code)
    return _problem(kind, str(error))


def add_exception_handlers(app: FastAPI) -> None:
    """Make `app` answer every failure with problem details."""
    for kind in EXPECTED_ERRORS:
        app.add_exception_handler(kind, handle_expected_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_exception_handler(Exception, handle_unexpected_error)


async def handle_expected_error(request: Request, error: Exception) -> Response:
    """Respond to one of the `EXPECTED_ERRORS`."""
    if isinstance(error, ClientDisconnect):
        record_refusal(ABANDONED)
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    assert isinstance(error, errors.PerceptError)
    problem = describe_problem(error)
    if problem.status >= 500:
        level = logging.WARNING if problem.code in REFUSAL_CODES else logging.ERROR
        log.log(level, "%s %s: %s", request.method, request.url.path, error)
    retry = {"Retry-After": str(error.retry_s)} if isinstance(error, errors.QueueFull) else None
    return _problem_response(request, problem, retry)


async def handle_unexpected_error(request: Request, _error: Exception) -> Response:
    """Respond to a bug. The caller raises the exception again, so that the server logs the traceback."""
    kind = ProblemType(500, "internal_error", "Internal error")
    return _problem_response(request, _problem(kind, "unexpected error; the log of the service has the traceback"))


async def _handle_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    known = _known_parameters(request)
    # FastAPI puts the location of a parameter (query, path) before its name.
    fields = ((details["loc"][1:], errors.describe_invalid_field(details, known)) for details in error.errors())
    return _problem_response(request, _problem(PROBLEMS[errors.BadParameter], errors.format_invalid_fields(fields)))


def _known_parameters(request: Request) -> list[str]:
    """The query parameters of the endpoint that a request is for."""
    dependant = getattr(request.scope.get("route"), "dependant", None)
    models = [field.field_info.annotation for field in dependant.query_params] if dependant else []
    return [name for model in models for name in getattr(model, "model_fields", ())]


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    """Respond to the exceptions of the router: unknown path, method not allowed."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    kind = ProblemType(status, status.phrase.lower().replace(" ", "_"), status.phrase)
    detail = f"{request.method} {request.url.path}: {status.phrase.lower()}; see /docs for the endpoints"
    headers = dict(error.headers or {})
    if "GET" in (allowed := headers.get("Allow", "").split(", ")):
        headers["Allow"] = ", ".join([*allowed, "HEAD"])  # `percept.server.middleware` answers HEAD as GET
    return _problem_response(request, _problem(kind, detail), headers)


def _problem(kind: ProblemType, detail: str) -> Problem:
    return Problem(
        type=f"urn:percept:problem:{kind.code}", title=kind.title, status=kind.status, detail=detail, code=kind.code
    )


def _problem_response(request: Request, problem: Problem, headers: dict[str, str] | None = None) -> Response:
    headers = dict(headers or {})
    if problem.status in RETRY_AFTER_S:
        headers["Retry-After"] = str(RETRY_AFTER_S[problem.status])
    context = current_request()
    if context is not None:
        problem = problem.model_copy(update={"instance": f"urn:percept:request:{context.id}"})
    content = problem.model_dump(exclude_none=True)
    if request.url.path.startswith(PROTOCOL_PREFIX):
        content["error"] = problem.detail
    return JSONResponse(content, problem.status, headers, media_type=MEDIA_TYPE)
