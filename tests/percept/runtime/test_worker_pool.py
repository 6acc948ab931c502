"""Threads that are shared: what a function gives comes back, who gave up is not served."""

import asyncio
import threading
from contextvars import ContextVar

import pytest

from percept.runtime.worker_pool import WorkerPool

ASKED_BY: ContextVar[str] = ContextVar("asked by", default="nobody")


def test_a_function_is_run_on_a_thread_in_the_context_of_who_asked() -> None:
    async def go() -> tuple[str, int]:
        crew = WorkerPool(1, "test")
        ASKED_BY.set("me")
        try:
            return await crew.run(ASKED_BY.get), await crew.do(threading.get_ident)
        finally:
            crew.close()

    who, where = asyncio.run(go())
    assert who == "me"
    assert where != threading.get_ident()


def test_what_a_function_raises_comes_back_and_the_thread_lives_on() -> None:
    async def go() -> int:
        crew = WorkerPool(1, "test")
        try:
            with pytest.raises(ZeroDivisionError):
                await crew.run(lambda: 1 // 0)
            async with asyncio.timeout(5):
                while crew.busy:
                    await asyncio.sleep(0.001)
            return await crew.run(lambda: 1)
        finally:
            crew.close()

    assert asyncio.run(go()) == 1


def test_who_gave_up_is_not_served_and_who_works_is_counted() -> None:
    async def go() -> list[str]:
        crew, gate, done = WorkerPool(1, "test"), threading.Event(), []
        first = asyncio.create_task(crew.run(gate.wait, 5))
        second = asyncio.create_task(crew.run(done.append, "second"))
        third = asyncio.create_task(crew.run(done.append, "third"))
        await asyncio.sleep(0)
        assert crew.busy == 1
        second.cancel()
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, third)
        crew.close()
        return done

    assert asyncio.run(go()) == ["third"]
