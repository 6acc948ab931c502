"""Batches form from what queued while the threads were busy; every item gets its own answer."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from percept.errors import QueueFull
from percept.runtime.batcher import Batcher, BatchObserver
from percept.runtime.worker_pool import WorkerPool
from percept.telemetry.context import begin_request


class Gate:
    """Doubles numbers, in batches that wait until the gate is open; refuses negative ones."""

    def __init__(self) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []
        self.made: list[int] = []

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.reached.set()
        self.open.wait(5)
        self.batches.append(list(items))
        if min(items) < 0:
            raise ValueError("poison")
        return [2 * item for item in items]

    def making(self, item: int) -> Callable[[], int]:
        """What gives a number, and notes that it was asked."""

        def make() -> int:
            self.made.append(item)
            return item

        return make


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


@pytest.fixture
def crew() -> Iterator[Callable[..., WorkerPool]]:
    """Makes crews that are dismissed at the end."""
    with ExitStack() as stack:

        def made(size: int = 1) -> WorkerPool:
            found = WorkerPool(size, "test")
            stack.callback(found.close)
            return found

        yield made


@pytest.fixture(params=["one crew", "two crews"])
def batcher(request: pytest.FixtureRequest, crew: Callable[..., WorkerPool]) -> Callable[..., Batcher[int, int]]:
    """Makes a batcher whose items are made by the thread that runs them, or by others."""

    def made(run: Callable[..., Any], max_batch: int, capacity: int = 100, size: int = 1) -> Batcher[int, int]:
        device = crew(size)
        return Batcher(run, max_batch, capacity, device if request.param == "one crew" else crew(size), device)

    return made


async def doubled(batcher: Batcher[int, int], gate: Gate, item: int) -> int:
    made, result = await batcher.submit(gate.making(item))
    assert made == item
    return result


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 20))


def test_what_queued_while_busy_becomes_one_batch_in_order(crew: Callable[..., WorkerPool]) -> None:
    async def go() -> tuple[list[int], list[list[int]]]:
        gate, one = Gate(), crew()
        batcher = Batcher(gate, 4, 100, one, one)
        tasks = [asyncio.create_task(doubled(batcher, gate, k)) for k in range(7)]
        await settled()
        gate.open.set()
        return await asyncio.gather(*tasks), gate.batches

    results, batches = run(go())
    assert results == [0, 2, 4, 6, 8, 10, 12]
    assert batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_the_next_batch_is_made_while_one_runs_and_no_more(crew: Callable[..., WorkerPool]) -> None:
    async def go() -> None:
        gate = Gate()
        batcher = Batcher(gate, 3, 100, crew(2), crew())
        tasks = [asyncio.create_task(doubled(batcher, gate, k)) for k in range(20)]
        await until(lambda: len(gate.made) >= 7)  # one at least that runs, and twice three that lie ready
        await asyncio.sleep(0.05)
        assert len(gate.made) <= 9
        gate.open.set()
        assert await asyncio.gather(*tasks) == [2 * k for k in range(20)]
        assert max(map(len, gate.batches)) == 3
        assert sorted(gate.made) == list(range(20))

    run(go())


def test_one_poisonous_item_does_not_fail_its_neighbours(batcher: Callable[..., Batcher[int, int]]) -> None:
    async def go() -> list[object]:
        gate = Gate()
        queue = batcher(gate, 8)
        tasks = [asyncio.create_task(doubled(queue, gate, k)) for k in (0, 1, -1, 3)]
        await settled()
        gate.open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert await doubled(queue, gate, 5) == 10
        return results

    results = run(go())
    assert [results[0], results[1], results[3]] == [0, 2, 6]
    assert isinstance(results[2], ValueError)


def test_an_item_that_cannot_be_made_fails_alone(batcher: Callable[..., Batcher[int, int]]) -> None:
    def broken() -> int:
        raise ValueError("broken image")

    async def go() -> list[object]:
        gate = Gate()
        gate.open.set()
        queue = batcher(gate, 4)
        return await asyncio.gather(
            doubled(queue, gate, 1), queue.submit(broken), doubled(queue, gate, 3), return_exceptions=True
        )

    first, second, third = run(go())
    assert (first, third) == (2, 6)
    assert str(second) == "broken image"


def test_a_full_queue_refuses_at_once_and_recovers(crew: Callable[..., WorkerPool]) -> None:
    async def go() -> None:
        gate, one = Gate(), crew()
        batcher = Batcher(gate, 1, 2, one, one)

        async def asked(item: int) -> int:
            with batcher.admit():
                return await doubled(batcher, gate, item)

        tasks = [asyncio.create_task(asked(k)) for k in range(3)]
        await settled()
        with pytest.raises(QueueFull, match="2 images are waiting"):
            await asked(9)
        tasks[1].cancel()
        await settled()
        tasks[1] = asyncio.create_task(asked(1))  # who gave up has left room
        await settled()
        gate.open.set()
        assert await asyncio.gather(*tasks) == [0, 2, 4]
        assert await asked(4) == 8

    run(go())


def test_who_is_refused_is_told_when_the_queue_will_be_done(crew: Callable[..., WorkerPool]) -> None:
    """By what an item takes of a thread, making it included."""

    def slowly(item: int = 0) -> int:
        time.sleep(0.05)
        return item

    async def go() -> int:
        one = crew()
        batcher = Batcher[int, int](lambda items: list(map(slowly, items)), 1, 400, one, one)
        for _ in range(3):
            await batcher.submit(slowly)
        with ExitStack() as taken:
            for _ in range(401):
                taken.enter_context(batcher.admit())
            with pytest.raises(QueueFull) as refused:
                batcher.check_capacity()
        return refused.value.retry_s

    assert 401 * 0.1 * 0.27 <= run(go()) <= 60


def test_room_is_for_those_that_wait_and_those_that_are_served(crew: Callable[..., WorkerPool]) -> None:
    one = crew()
    batcher = Batcher[int, int](Gate(), 2, 1, one, one)
    with ExitStack() as taken:
        for _ in range(3):
            taken.enter_context(batcher.admit())
        with pytest.raises(QueueFull, match="1 images are waiting"), batcher.admit():
            pass
    with batcher.admit():
        pass


def test_who_gave_up_is_dropped_before_the_item_is_made(batcher: Callable[..., Batcher[int, int]]) -> None:
    async def go() -> Gate:
        gate = Gate()
        queue = batcher(gate, 1)
        tasks = [asyncio.create_task(doubled(queue, gate, k)) for k in range(6)]
        await settled()
        tasks[5].cancel()  # far behind what may lie ready
        await settled()
        gate.open.set()
        assert await asyncio.gather(*tasks[:5]) == [0, 2, 4, 6, 8]
        return gate

    assert 5 not in run(go()).made


def test_who_gave_up_is_dropped_again_before_the_batch_forms(crew: Callable[..., WorkerPool]) -> None:
    async def go() -> Gate:
        gate = Gate()
        queue = Batcher(gate, 8, 100, crew(), crew())
        tasks = [asyncio.create_task(doubled(queue, gate, k)) for k in range(4)]
        await until(lambda: len(gate.made) == 4)
        await asyncio.sleep(0.05)
        tasks[2].cancel()
        await settled()
        gate.open.set()
        assert await asyncio.gather(*tasks[:2], tasks[3]) == [0, 2, 6]
        return gate

    gate = run(go())
    assert gate.batches == [[0], [1, 3]]


def test_every_thread_is_used(batcher: Callable[..., Batcher[int, int]]) -> None:
    async def go() -> None:
        meeting = threading.Barrier(2, timeout=5)

        def meet(items: Sequence[int]) -> Sequence[int]:
            meeting.wait()
            return items

        queue = batcher(meet, 1, size=2)
        assert await asyncio.gather(queue.submit(lambda: 1), queue.submit(lambda: 2)) == [(1, 1), (2, 2)]

    run(go())


def test_turns_go_round_the_queues_however_much_waits_in_one(crew: Callable[..., WorkerPool]) -> None:
    async def go() -> list[str]:
        one, start, order = crew(), threading.Event(), []

        def served(name: str, items: Sequence[int]) -> Sequence[int]:
            start.wait(5)
            order.append(name)
            return items

        busy = Batcher[int, int](partial(served, "busy"), 1, 100, one, one)
        quiet = Batcher[int, int](partial(served, "quiet"), 1, 100, one, one)
        tasks = [asyncio.create_task(busy.submit(lambda: 0)) for _ in range(6)]
        await settled()
        tasks += [asyncio.create_task(quiet.submit(lambda: 0)) for _ in range(2)]
        tasks.append(asyncio.create_task(one.run(order.append, "errand")))
        await settled()
        start.set()
        await asyncio.gather(*tasks)
        return order

    order = run(go())
    assert order == ["busy", "busy", "quiet", "errand", "busy", "quiet", "busy", "busy", "busy"]


def test_what_each_waited_for_and_what_its_batch_took_is_noted(batcher: Callable[..., Batcher[int, int]]) -> None:
    async def asked(queue: Batcher[int, int], gate: Gate, item: int) -> dict[str, float]:
        account = begin_request()
        await doubled(queue, gate, item)
        return account.spent

    async def go() -> list[dict[str, float]]:
        gate = Gate()
        queue = batcher(gate, 2)
        tasks = [asyncio.create_task(asked(queue, gate, k)) for k in range(3)]
        await until(gate.reached.is_set)
        await asyncio.sleep(0.05)
        gate.open.set()
        return await asyncio.gather(*tasks)

    first, second, third = run(go())
    assert first["infer"] >= 0.05
    assert second["queue"] >= 0.05
    assert second.keys() == third.keys() == {"queue", "infer"}
    assert second["infer"] == pytest.approx(third["infer"], abs=0.01)
    assert second["infer"] < first["infer"]


def test_those_count_as_waiting_whom_no_thread_has_taken_and_somebody_waits_for(
    crew: Callable[..., WorkerPool],
) -> None:
    async def go() -> None:
        gate, one = Gate(), crew()
        queue = Batcher(gate, 1, 7, one, one)
        assert (queue.depth, queue.capacity) == (0, 7)
        tasks = [asyncio.create_task(doubled(queue, gate, k)) for k in range(5)]
        await until(lambda: gate.made == [0])
        assert queue.depth == 4
        tasks[3].cancel()
        await settled()
        assert queue.depth == 3
        gate.open.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert queue.depth == 0

    run(go())


def test_every_wait_and_every_run_is_told(crew: Callable[..., WorkerPool]) -> None:
    """Those who gave up waited too; a batch that was poisoned is run again one by one."""
    waits: list[float] = []
    sizes: list[int] = []

    async def go() -> None:
        gate, one = Gate(), crew()
        queue = Batcher(gate, 4, 100, one, one, BatchObserver(waits.append, sizes.append))
        tasks = [asyncio.create_task(doubled(queue, gate, item)) for item in (1, 2, -3, 4, 5)]
        await until(lambda: gate.made == [1])
        tasks[1].cancel()
        await asyncio.sleep(0.05)
        gate.open.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(go())
    assert len(waits) == 5
    assert 0 <= waits[0] < min(waits[1:])
    assert min(waits[1:]) >= 0.05
    assert sizes == [1, 3, 1, 1, 1]
