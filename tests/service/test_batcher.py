"""Batches form from what queued while the workers were busy; every item gets its own answer."""

import asyncio
import threading
from collections.abc import Sequence
from contextlib import ExitStack

import pytest

from service.batcher import Batcher
from service.errors import QueueFull


class Gate:
    """Doubles numbers, in batches that wait until the gate is open; refuses negative ones."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.open.wait(5)
        self.batches.append(list(items))
        if min(items) < 0:
            raise ValueError("poison")
        return [2 * item for item in items]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_queued_while_busy_becomes_one_batch_in_order() -> None:
    async def run() -> tuple[list[int], list[list[int]]]:
        gate = Gate()
        batcher = Batcher(gate, max_batch=4, capacity=100, workers=1)
        tasks = [asyncio.create_task(batcher.submit(k)) for k in range(7)]
        await settled()
        gate.open.set()
        results = await asyncio.gather(*tasks)
        batcher.close()
        return results, gate.batches

    results, batches = asyncio.run(run())
    assert results == [0, 2, 4, 6, 8, 10, 12]
    assert batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_one_poisonous_item_does_not_fail_its_neighbours() -> None:
    async def run() -> list[object]:
        gate = Gate()
        batcher = Batcher(gate, max_batch=8, capacity=100, workers=1)
        tasks = [asyncio.create_task(batcher.submit(k)) for k in (0, 1, -1, 3)]
        await settled()
        gate.open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert await batcher.submit(5) == 10
        batcher.close()
        return results

    results = asyncio.run(run())
    assert [results[0], results[1], results[3]] == [0, 2, 6]
    assert isinstance(results[2], ValueError)


def test_a_full_queue_refuses_at_once_and_recovers() -> None:
    async def run() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=1, capacity=2, workers=1)
        tasks = [asyncio.create_task(batcher.submit(k)) for k in range(3)]
        await settled()
        with pytest.raises(QueueFull, match="2 images are waiting"):
            await batcher.submit(9)
        gate.open.set()
        assert await asyncio.gather(*tasks) == [0, 2, 4]
        assert await batcher.submit(4) == 8
        batcher.close()

    asyncio.run(run())


def test_room_is_for_those_that_wait_and_those_that_are_served() -> None:
    batcher = Batcher(Gate(), max_batch=2, capacity=1, workers=1)
    with ExitStack() as taken:
        for _ in range(3):
            taken.enter_context(batcher.room())
        with pytest.raises(QueueFull, match="1 images are waiting"), batcher.room():
            pass
    with batcher.room():
        pass
    batcher.close()


def test_who_gave_up_is_dropped_before_the_batch_forms() -> None:
    async def run() -> list[list[int]]:
        gate = Gate()
        batcher = Batcher(gate, max_batch=8, capacity=100, workers=1)
        tasks = [asyncio.create_task(batcher.submit(k)) for k in range(4)]
        await settled()
        tasks[2].cancel()
        await settled()
        gate.open.set()
        assert await asyncio.gather(*tasks[:2], tasks[3]) == [0, 2, 6]
        batcher.close()
        return gate.batches

    assert asyncio.run(run()) == [[0], [1, 3]]


def test_every_worker_is_used() -> None:
    async def run() -> None:
        meeting = threading.Barrier(2, timeout=5)

        def meet(items: Sequence[int]) -> Sequence[int]:
            meeting.wait()
            return items

        batcher = Batcher(meet, max_batch=1, capacity=8, workers=2)
        assert await asyncio.gather(batcher.submit(1), batcher.submit(2)) == [1, 2]
        batcher.close()

    asyncio.run(run())
