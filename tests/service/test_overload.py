"""More requests than can be served: some are answered, the rest are told at once when to come again."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import pytest

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


def test_who_went_away_is_not_served(start: Callable[..., Any], bundles: Path) -> None:
    """Behind clients that gave up nobody waits as long as their images would take."""
    server = start(bundles, PERCEPT_THREADS="1")
    url = "/predict?model=classification-squeeze"
    begun = perf_counter()
    server.client.post(url, content=LARGE).raise_for_status()
    alone = perf_counter() - begun

    async def desert() -> float:
        async with httpx.AsyncClient(base_url=server.client.base_url, timeout=60) as http:
            gone = [asyncio.create_task(http.post(url, content=LARGE)) for _ in range(80)]
            await asyncio.sleep(1.0)
            for task in gone:
                task.cancel()
            await asyncio.gather(*gone, return_exceptions=True)
            await asyncio.sleep(0.6)  # in which the service looks whether anybody is there
            begun = perf_counter()
            (await http.post(url, content=LARGE)).raise_for_status()
            return perf_counter() - begun

    waited = asyncio.run(desert())
    assert waited < 20 * alone
