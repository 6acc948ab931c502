"""Under overload some requests are answered and the others are refused at once; disconnected clients cost no work."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from percept.server.app import create_app
from percept.settings import Settings
from tests.conftest import Server
from tests.photos import draw_marker, encode_photo

LARGE = encode_photo(draw_marker((3000, 2000), (700, 700), 300), "PNG")


@pytest.mark.parametrize("path", ["/predict", "/features?layer=colour", "/cam"])
def test_overload_is_refused_before_decoding(start: Callable[..., Server], bundles: Path, path: str) -> None:
    """Only one thread decodes, so the queue behind it would never be full; admitted requests are answered."""
    server = start(bundles, PERCEPT_MAX_QUEUE="2", PERCEPT_THREADS="1")
    url = f"{path}{'&' if '?' in path else '?'}model=classification-squeeze"

    async def overload() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.client.base_url, timeout=60) as http:
            return await asyncio.gather(*(http.post(url, content=LARGE) for _ in range(24)))

    responses = asyncio.run(overload())
    codes = Counter(response.status_code for response in responses)
    assert set(codes) == {200, 429}
    assert codes[200] >= 3
    refused = [response for response in responses if response.status_code == 429]
    assert all(response.json()["code"] == "queue_full" and response.headers["retry-after"] for response in refused)
    assert server.client.post(url, content=LARGE).status_code == 200


@pytest.mark.parametrize(
    ("path", "query", "method"),
    [("/predict", "", "predict"), ("/features", "layer=colour&", "features"), ("/cam", "", "explain")],
)
def test_disconnected_client_cancels_its_request(bundles: Path, path: str, query: str, method: str) -> None:
    cancelled: list[str] = []

    async def sleep(*_: object) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(method)
            raise

    messages = [{"type": "http.request", "body": LARGE, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(_: object) -> None:
        pass

    async def run() -> None:
        app = create_app(Settings(models=bundles, device="cpu"))
        async with app.router.lifespan_context(app):
            state = app.state.percept
            while not state.repository.models:
                await asyncio.sleep(0.05)
            setattr(state.pipeline, method, sleep)
            query_string = f"{query}model=classification-squeeze".encode()
            scope = {"type": "http", "method": "POST", "path": path, "query_string": query_string, "headers": []}
            await asyncio.wait_for(app(scope, receive, send), 20)

    asyncio.run(run())
    assert cancelled == [method]
