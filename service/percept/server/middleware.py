"""ASGI middleware: the identity and telemetry of every request, and the response to requests that a shutdown cancels.

`RequestTelemetry` adds `X-Request-ID` and `Server-Timing` to every response, and records the request in the metrics,
the access log and the trace. In `Server-Timing` the stages are those of `percept.telemetry.context`; `total` is the
time until the response headers. Several threads may work for one request, so the stages may sum to more than the total.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Iterable
from time import perf_counter

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from percept.api import problems
from percept.errors import NotReady
from percept.telemetry import logs
from percept.telemetry.context import STAGES, RequestContext, begin_request
from percept.telemetry.metrics import Metrics
from percept.telemetry.tracing import Tracing

Headers = Iterable[tuple[bytes, bytes]]

# The label of a request that no route matches. Clients may send any path, and labels must have few values.
UNMATCHED_ENDPOINT = "other"
# Machines poll these every few seconds. Such requests are not traced, not counted as in flight, and logged at DEBUG
# only; a 503 of a readiness probe is not counted as a refusal.
PROBE_PATHS = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"})

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# version-trace-parent-flags, and fields that later versions may append (W3C Trace Context Level 2, 3.2 and 4.3).
TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.S)


class RequestTelemetry:
    """ASGI middleware that measures and identifies each request, from its first byte to the end of its response.

    It answers HEAD requests too, wherever GET is possible.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._app, self._metrics, self._tracing = app, metrics, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application in a new request context and record the outcome."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = perf_counter(), 500
        is_head = scope["method"] == "HEAD"
        # The application answers a HEAD request as a GET; the body is not sent (RFC 9110, section 9.3.2).
        app_scope = {**scope, "method": "GET"} if is_head else scope
        request = begin_request(*identify(scope["headers"]))
        probe = scope["path"] in PROBE_PATHS
        span = self._tracing.start_request(scope, request, start) if self._tracing and not probe else None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = server_timing(request, perf_counter() - start), (b"x-request-id", request.id.encode())
                message["headers"] = [*message.get("headers", ()), *added]
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        if not probe:
            self._metrics.in_flight.inc()
        try:
            await self._app(app_scope, receive, send_with_headers)
        finally:
            # The path template of the route that matched, such as `/models/{name}`.
            endpoint = getattr(app_scope.get("route"), "path", None)
            self._record(scope, endpoint or UNMATCHED_ENDPOINT, request, status, perf_counter() - start, probe)
            if self._tracing and span:
                self._tracing.end_request(span, scope, endpoint, status, request)

    def _record(
        self, scope: Scope, endpoint: str, request: RequestContext, status: int, seconds: float, probe: bool
    ) -> None:
        self._metrics.record_request(endpoint, status, seconds, request)
        if not probe:
            self._metrics.in_flight.dec()
            if request.refusals:
                self._metrics.record_refusals(request)
        level = logging.DEBUG if probe else logging.INFO
        logs.log_request(level, request, scope["method"], scope["path"], endpoint, status, seconds)


class RefuseOnShutdown:
    """ASGI middleware that answers 503 `not_ready` to a request that is cancelled because the server stops.

    The client can then repeat the request elsewhere, instead of seeing a closed connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; a cancelled request whose response has not started gets the 503."""
        started = False

        async def send_and_record(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        except asyncio.CancelledError:
            if started or scope["type"] != "http":
                raise
            error = NotReady("the server is shutting down; repeat the request, or send it to another server")
            response = await problems.handle_expected_error(Request(scope), error)
            await response(scope, receive, send)


def server_timing(request: RequestContext, total: float) -> tuple[bytes, bytes]:
    """Return the header `Server-Timing` in milliseconds, the stages in the order of `STAGES` (W3C Server Timing)."""
    seconds = request.stage_seconds
    parts = [f"{name};dur={1e3 * seconds[name]:.2f}" for name in STAGES if name in seconds]
    return b"server-timing", ", ".join([*parts, f"total;dur={1e3 * total:.2f}"]).encode()


def identify(headers: Headers) -> tuple[str, str]:
    """Return the id of a request and the id of its trace, from ASGI headers.

    The client's `X-Request-ID` is used if there is exactly one and it is well-formed, because it appears in log lines,
    headers and URNs; otherwise a random id replaces it. The trace id is empty without one valid `traceparent`.
    """
    ids = [value for name, value in headers if name == b"x-request-id"]
    traces = [value for name, value in headers if name == b"traceparent"]
    valid = len(ids) == 1 and REQUEST_ID.fullmatch(ids[0])
    return ids[0].decode() if valid else secrets.token_hex(8), _trace_id(traces[0]) if len(traces) == 1 else ""


def _trace_id(traceparent: bytes) -> str:
    found = TRACEPARENT.fullmatch(traceparent)
    if found is None or (found[1] == b"00" and found[3] is not None):  # version 00 has no further fields
        return ""
    return found[2].decode()
