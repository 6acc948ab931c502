"""More requests than can be served: some are answered, the rest are told at once when to come again."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from percept.server.app import create_app
from percept.settings import Settings
from tests.photos import encoded, marked

LARGE = encoded(marked((3000, 2000), (700, 700), 300), "PNG")


@pytest.mark.parametrize("path", ["/predict", "/features?layer=colour", "/cam"])
def test_a_flood_is_refused_before_anything_is_decoded(start: Callable[..., Any], bundles: Path, path: str) -> None:
    """One thread decodes, so that no queue behind it would ever be full; those who were admitted are answered."""
    server = start(bundles, PERCEPT_MAX_QUEUE="2", PERCEPT_THREADS="1")
    model = "model=classification-squeeze"
    url = f"{path}{'&' if '?' in path else '?'}{model}"

    async def flood() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.client.base_url, timeout=60) as http:
            return await asyncio.gather(*(http.post(url, content=LARGE) for _ in range(24)))

    found = asyncio.run(flood())
    codes = Counter(answer.status_code for answer in found)
    assert set(codes) == {200, 429}
    assert codes[200] >= 3
    refused = [answer for answer in found if answer.status_code == 429]
    assert all(answer.json()["code"] == "queue_full" and answer.headers["retry-after"] for answer in refused)
    assert server.client.post(url, content=LARGE).status_code == 200


@pytest.mark.parametrize(
    ("path", "query", "work"),
    [("/predict", "", "predict"), ("/features", "layer=colour&", "features"), ("/cam", "", "explain")],
)
def test_who_went_away_is_not_served(bundles: Path, path: str, query: str, work: str) -> None:
    """The work for a client is cancelled once it has gone, wherever it stands."""
    cancelled: list[str] = []

    async def forever(*_: object) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(work)
            raise

    sent = [{"type": "http.request", "body": LARGE, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return sent.pop() if sent else {"type": "http.disconnect"}

    async def send(_: object) -> None:
        pass

    async def run() -> None:
        app = create_app(Settings(models=bundles, device="cpu"))
        async with app.router.lifespan_context(app):
            percept = app.state.percept
            while not percept.repository.models:
                await asyncio.sleep(0.05)
            setattr(percept.pipeline, work, forever)
            asked = f"{query}model=classification-squeeze".encode()
            scope = {"type": "http", "method": "POST", "path": path, "query_string": asked, "headers": []}
            await asyncio.wait_for(app(scope, receive, send), 20)

    asyncio.run(run())
    assert cancelled == [work]
