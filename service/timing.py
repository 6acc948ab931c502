"""What a request took: `Server-Timing` on every answer, and the same counted for Prometheus.

The stages are those of `stages`; `total` is all that the answer had taken when its headers left. What is spent while
several threads work for one request adds up, so that stages may be more than the total.
"""

from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import Metrics
from service.stages import STAGES, Spent, begin

ELSEWHERE = "other"  # a path that no endpoint has: anybody may ask for anything, and labels must stay few


class Timing:
    """ASGI middleware: keeps a request's time from its first byte to the end of its answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application and time it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = perf_counter(), 500
        spent = begin()

        async def timed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), header(spent, perf_counter() - start)]
            await send(message)

        try:
            await self._app(scope, receive, timed)
        finally:
            self._metrics.count(endpoint(scope), status, perf_counter() - start, spent)


def endpoint(scope: Scope) -> str:
    """The path of the endpoint that answers, as it is documented."""
    route: Any = scope.get("route")
    return getattr(route, "path", ELSEWHERE)


def header(spent: Spent, total: float) -> tuple[bytes, bytes]:
    """`Server-Timing` in milliseconds, the stages in the order in which they come (W3C Server Timing)."""
    parts = [f"{name};dur={1e3 * spent[name]:.2f}" for name in STAGES if name in spent]
    return b"server-timing", ", ".join([*parts, f"total;dur={1e3 * total:.2f}"]).encode()
