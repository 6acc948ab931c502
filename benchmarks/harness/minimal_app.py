"""The floor of `overhead.py`: an ASGI application that reads a body and answers as many bytes as a prediction has.

What it costs is uvicorn's own. `python -m uvicorn benchmarks.harness.minimal_app:app`
"""

from collections.abc import Awaitable, Callable
from typing import Any

ANSWER = b"{" + b" " * 398 + b"}"
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


async def app(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    """The same answer to everybody."""
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": ANSWER})
