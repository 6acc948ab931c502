"""Worker threads run functions in the context of their callers, and skip those whose caller was cancelled."""

import asyncio
import threading
from contextvars import ContextVar

import pytest

from tests.percept.runtime.gate import run, settle, wait_until, worker_pool

CALLER: ContextVar[str] = ContextVar("caller", default="none")


def test_function_runs_on_a_thread_in_the_callers_context() -> None:
    async def call() -> tuple[str, int]:
        with worker_pool() as pool:
            CALLER.set("test")
            return await pool.run(CALLER.get), await pool.run(threading.get_ident)

    caller, thread = run(call())
    assert caller == "test"
    assert thread != threading.get_ident()


def test_arguments_reach_the_function() -> None:
    async def call() -> str:
        with worker_pool() as pool:
            return await pool.run("{0}-{name}".format, 1, name="b")

    assert run(call()) == "1-b"


def test_exception_reaches_the_caller_and_the_thread_goes_on() -> None:
    async def call() -> int:
        with worker_pool() as pool:
            with pytest.raises(ZeroDivisionError):
                await pool.run(lambda: 1 // 0)
            await wait_until(lambda: not pool.busy)
            return await pool.run(lambda: 1)

    assert run(call()) == 1


def test_stop_iteration_reaches_the_caller_as_an_error() -> None:
    async def call() -> None:
        with worker_pool() as pool:
            await pool.run(next, iter(()))

    with pytest.raises(RuntimeError, match="a job raised StopIteration"):
        run(call())


def test_abandoned_job_is_skipped_and_busy_threads_are_counted() -> None:
    async def call() -> list[str]:
        gate, done = threading.Event(), list[str]()
        with worker_pool() as pool:
            first = asyncio.create_task(pool.run(gate.wait, 5))
            second = asyncio.create_task(pool.run(done.append, "second"))
            third = asyncio.create_task(pool.run(done.append, "third"))
            await asyncio.sleep(0)
            assert pool.busy == 1
            second.cancel()
            await asyncio.sleep(0)
            gate.set()
            await asyncio.gather(first, third)
        return done

    assert run(call()) == ["third"]


def test_closed_pool_begins_no_more_jobs() -> None:
    async def call() -> list[str]:
        gate, done = threading.Event(), list[str]()
        with worker_pool() as pool:
            running = asyncio.create_task(pool.run(gate.wait, 5))
            waiting = asyncio.create_task(pool.run(done.append, "late"))
            await settle()
            pool.close()
            gate.set()
            assert await running, "the job that runs ends"
            await asyncio.sleep(0.05)
            waiting.cancel()
        return done

    assert run(call()) == []
