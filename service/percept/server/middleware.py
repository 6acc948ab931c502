"""What is told of a request: `Server-Timing` and `X-Request-ID` on every answer, and to whoever watches the service its
numbers, its line in the log, and its trace.

The stages are those of `stages`; `total` is all that the answer had taken when its headers left. What is spent while
several threads work for one request adds up, so that stages may be more than the total.
"""

import logging
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from percept.server.request_id import identify
from percept.telemetry import logs
from percept.telemetry.context import STAGES, Account, begin
from percept.telemetry.metrics import Metrics
from percept.telemetry.tracing import Tracing

ELSEWHERE = "other"  # a path that no endpoint has: anybody may ask for anything, and labels must stay few
# Asked every few seconds by machines: no work, no trace, and no line but for who looks for it. That the service is not
# ready is no refusal there.
QUIET = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"})


class Timing:
    """ASGI middleware: keeps the account of a request from its first byte to the end of its answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._app, self._metrics, self._tracing = app, metrics, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application and tell of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = perf_counter(), 500
        account = begin(*identify(scope["headers"]))
        quiet = scope["path"] in QUIET
        span = self._tracing.begin(scope, account, start) if self._tracing and not quiet else None

        async def timed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = header(account, perf_counter() - start), (b"x-request-id", account.id.encode())
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        if not quiet:
            self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, timed)
        finally:
            self._tell(scope, account, status, perf_counter() - start, quiet)
            if self._tracing and span:
                self._tracing.end(span, scope, route(scope), status, account)

    def _tell(self, scope: Scope, account: Account, status: int, seconds: float, quiet: bool) -> None:
        endpoint = route(scope) or ELSEWHERE
        self._metrics.count(endpoint, status, seconds, account)
        if not quiet:
            self._metrics.in_flight.dec()
            self._metrics.refused(account)
        level = logging.DEBUG if quiet else logging.INFO
        logs.answered(level, account, scope["method"], scope["path"], endpoint, status, seconds)


def route(scope: Scope) -> str | None:
    """The path of the endpoint that answers, as it is documented; None where there is none."""
    found: Any = scope.get("route")
    return getattr(found, "path", None)


def header(account: Account, total: float) -> tuple[bytes, bytes]:
    """`Server-Timing` in milliseconds, the stages in the order in which they come (W3C Server Timing)."""
    spent = account.spent
    parts = [f"{name};dur={1e3 * spent[name]:.2f}" for name in STAGES if name in spent]
    return b"server-timing", ", ".join([*parts, f"total;dur={1e3 * total:.2f}"]).encode()
