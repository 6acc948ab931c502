"""The batcher admits a bounded number of requests, and reports how long a client should wait."""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from percept.errors import QueueFull
from percept.runtime.batcher import Batcher
from percept.runtime.worker_pool import WorkerPool
from tests.percept.runtime.gate import Gate, pair, run, settle, submit, wait_until

CreatePool = Callable[..., WorkerPool]


def test_full_queue_refuses_at_once_and_recovers(create_pool: CreatePool) -> None:
    async def fill() -> None:
        gate, pool = Gate(), create_pool()
        batcher = Batcher(gate, 1, 2, pool, pool)

        async def request(item: int) -> int:
            with batcher.admit():
                return await submit(batcher, gate, item)

        tasks = [asyncio.create_task(request(k)) for k in range(3)]
        await settle()
        with pytest.raises(QueueFull, match="2 requests are waiting"):
            await request(9)
        tasks[1].cancel()
        await settle()
        tasks[1] = asyncio.create_task(request(1))  # the cancelled request has left its place
        await settle()
        gate.open.set()
        assert await asyncio.gather(*tasks) == [0, 2, 4]
        assert await request(4) == 8

    run(fill())


def test_refusal_says_when_the_queue_will_be_done(create_pool: CreatePool) -> None:
    """The time follows from the seconds that one item takes of a thread, its preparation included."""

    def sleep(item: int = 0) -> int:
        time.sleep(0.05)
        return item

    async def measure() -> int:
        pool = create_pool()
        batcher = Batcher[int, int](lambda items: list(map(sleep, items)), 1, 400, pool, pool)
        for _ in range(3):
            await batcher.submit(sleep, pair)
        with ExitStack() as places:
            for _ in range(401):
                places.enter_context(batcher.admit())
            with pytest.raises(QueueFull) as refused:
                batcher.check_capacity()
        return refused.value.retry_s

    assert 401 * 0.1 * 0.27 <= run(measure()) <= 60


def test_finish_counts_in_the_seconds_per_item(create_pool: CreatePool) -> None:
    def finish(item: int, result: int) -> None:
        time.sleep(0.1)

    async def measure() -> int:
        pool = create_pool()
        batcher = Batcher[int, int](lambda items: items, 1, 400, pool, pool)
        for _ in range(3):
            await batcher.submit(lambda: 0, finish)
        with ExitStack() as places:
            for _ in range(401):
                places.enter_context(batcher.admit())
            with pytest.raises(QueueFull) as refused:
                batcher.check_capacity()
        return refused.value.retry_s

    assert 401 * 0.1 * 0.27 <= run(measure()) <= 60


def test_places_are_for_waiting_and_for_running_items(create_pool: CreatePool) -> None:
    pool = create_pool()
    batcher = Batcher[int, int](Gate(), 2, 1, pool, pool)
    with ExitStack() as places:
        for _ in range(3):
            places.enter_context(batcher.admit())
        with pytest.raises(QueueFull, match="1 requests are waiting"), batcher.admit():
            pass
    with batcher.admit():
        pass


def test_depth_counts_waiting_entries_without_abandoned_ones(create_pool: CreatePool) -> None:
    async def measure() -> None:
        gate, pool = Gate(), create_pool()
        batcher = Batcher(gate, 1, 7, pool, pool)
        assert (batcher.depth, batcher.capacity) == (0, 7)
        tasks = [asyncio.create_task(submit(batcher, gate, k)) for k in range(5)]
        await wait_until(lambda: gate.prepared == [0])
        assert batcher.depth == 4
        tasks[3].cancel()
        await settle()
        assert batcher.depth == 3
        gate.open.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert batcher.depth == 0

    run(measure())
