"""Cancel the work for a request when its client disconnects.

A request comes in; a context manager leaves. It cancels the code in its body if the client disconnects, and does not
know what that code computes.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.requests import ClientDisconnect

POLL_INTERVAL_S = 0.25


@asynccontextmanager
async def cancel_on_disconnect(request: Request) -> AsyncIterator[None]:
    """Cancel the body of an `async with` and raise `ClientDisconnect` if the client disconnects."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    polling: asyncio.Task[None] | None = None
    disconnected = False

    async def poll() -> None:
        nonlocal disconnected
        while not await request.is_disconnected():  # noqa: ASYNC110 (Starlette offers no event)
            await asyncio.sleep(POLL_INTERVAL_S)
        disconnected = True
        task.cancel()

    def start_polling() -> None:
        nonlocal polling
        polling = loop.create_task(poll())

    timer = loop.call_later(POLL_INTERVAL_S, start_polling)  # most requests are answered before the first poll
    try:
        yield
    except asyncio.CancelledError:
        if not disconnected or task.uncancel():  # something else cancelled the task, alone or as well
            raise
        raise ClientDisconnect from None
    finally:
        timer.cancel()
        if polling:
            polling.cancel()
