"""Cancelling the work for a request when its client disconnects."""

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from starlette.requests import ClientDisconnect

from percept.api.disconnect import cancel_on_disconnect

T = TypeVar("T")


class DisconnectingRequest:
    """A request whose client disconnects after a number of polls."""

    def __init__(self, polls: float) -> None:
        self.polls = polls

    async def is_disconnected(self) -> bool:
        self.polls -= 1
        return self.polls < 0


async def run(request: DisconnectingRequest, work: Coroutine[Any, Any, T]) -> T:
    async with cancel_on_disconnect(request):  # type: ignore[arg-type]
        return await work


def test_work_is_cancelled_when_the_client_disconnects() -> None:
    cancelled = []

    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.append(True)

    with pytest.raises(ClientDisconnect):
        asyncio.run(run(DisconnectingRequest(1), endless()))
    assert cancelled == [True]


def test_result_or_error_of_the_work_is_returned() -> None:
    async def quick() -> int:
        return 7

    async def broken() -> int:
        raise ValueError("broken")

    assert asyncio.run(run(DisconnectingRequest(math.inf), quick())) == 7
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(run(DisconnectingRequest(math.inf), broken()))


def test_cancellation_by_another_cause_is_not_a_disconnect() -> None:
    async def main() -> None:
        request = DisconnectingRequest(math.inf)
        task = asyncio.create_task(run(request, asyncio.sleep(60)))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())


def test_deadline_within_the_work_is_not_a_disconnect() -> None:
    async def main() -> None:
        async with cancel_on_disconnect(DisconnectingRequest(math.inf)), asyncio.timeout(0.01):  # type: ignore[arg-type]
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
