"""The floor of `http_overhead.py`: an ASGI application that reads the body and returns as many bytes as a prediction.

Its CPU time is that of uvicorn. `python -m uvicorn benchmarks.harness.minimal_app:app`
"""

from collections.abc import Awaitable, Callable
from typing import Any

ANSWER = b"{" + b" " * 398 + b"}"
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


async def app(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    """Return the same response to every request."""
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": ANSWER})
