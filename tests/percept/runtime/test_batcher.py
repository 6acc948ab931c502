"""Batches form from the entries that queued while the threads were busy; each caller gets its own reply."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial

from percept.runtime.batcher import Batcher
from percept.runtime.worker_pool import WorkerPool
from tests.percept.runtime.gate import Gate, pair, run, settle, submit, wait_until

CreatePool = Callable[..., WorkerPool]
CreateBatcher = Callable[..., Batcher[int, int]]


def test_entries_queued_while_busy_form_one_batch(create_pool: CreatePool) -> None:
    async def double_seven() -> tuple[list[int], list[list[int]]]:
        gate, pool = Gate(), create_pool()
        batcher = Batcher(gate, 4, 100, pool, pool)
        tasks = [asyncio.create_task(submit(batcher, gate, k)) for k in range(7)]
        await settle()
        gate.open.set()
        return await asyncio.gather(*tasks), gate.batches

    results, batches = run(double_seven())
    assert results == [0, 2, 4, 6, 8, 10, 12]
    assert batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_next_batch_is_prepared_while_one_runs(create_pool: CreatePool) -> None:
    async def double_twenty() -> None:
        gate = Gate()
        batcher = Batcher(gate, 3, 100, create_pool(2), create_pool())
        tasks = [asyncio.create_task(submit(batcher, gate, k)) for k in range(20)]
        await wait_until(lambda: len(gate.prepared) >= 7)  # at least one that runs, and two batches of three
        await asyncio.sleep(0.05)
        assert len(gate.prepared) <= 9, "no more than the next batches are prepared"
        gate.open.set()
        assert await asyncio.gather(*tasks) == [2 * k for k in range(20)]
        assert max(map(len, gate.batches)) == 3
        assert sorted(gate.prepared) == list(range(20))

    run(double_twenty())


def test_failing_item_does_not_fail_its_batch(create_batcher: CreateBatcher) -> None:
    async def double_four() -> list[int | BaseException]:
        gate = Gate()
        batcher = create_batcher(gate, 8)
        tasks = [asyncio.create_task(submit(batcher, gate, k)) for k in (0, 1, -1, 3)]
        await settle()
        gate.open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert await submit(batcher, gate, 5) == 10
        return results

    results = run(double_four())
    assert [results[0], results[1], results[3]] == [0, 2, 6]
    assert isinstance(results[2], ValueError)


def test_item_that_cannot_be_prepared_fails_alone(create_batcher: CreateBatcher) -> None:
    def fail() -> int:
        raise ValueError("broken image")

    async def double_three() -> list[object]:
        gate = Gate()
        batcher = create_batcher(gate, 4)
        tasks = [asyncio.create_task(submit(batcher, gate, 0))]
        await wait_until(gate.reached.is_set)  # the others form one batch
        for coroutine in (submit(batcher, gate, 1), batcher.submit(fail, pair), submit(batcher, gate, 3)):
            tasks.append(asyncio.create_task(coroutine))  # type: ignore[arg-type]
        await settle()
        gate.open.set()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    _, first, second, third = run(double_three())
    assert (first, third) == (2, 6)
    assert str(second) == "broken image"


def test_abandoned_entry_is_not_prepared(create_batcher: CreateBatcher) -> None:
    async def abandon_last() -> Gate:
        gate = Gate()
        batcher = create_batcher(gate, 1)
        tasks = [asyncio.create_task(submit(batcher, gate, k)) for k in range(6)]
        await settle()
        tasks[5].cancel()  # far behind the entries that may be prepared already
        await settle()
        gate.open.set()
        assert await asyncio.gather(*tasks[:5]) == [0, 2, 4, 6, 8]
        return gate

    assert 5 not in run(abandon_last()).prepared


def test_abandoned_entry_is_dropped_from_the_next_batch(create_pool: CreatePool) -> None:
    async def abandon_third() -> Gate:
        gate = Gate()
        batcher = Batcher(gate, 8, 100, create_pool(), create_pool())
        tasks = [asyncio.create_task(submit(batcher, gate, k)) for k in range(4)]
        await wait_until(lambda: len(gate.prepared) == 4)
        await asyncio.sleep(0.05)
        tasks[2].cancel()
        await settle()
        gate.open.set()
        assert await asyncio.gather(*tasks[:2], tasks[3]) == [0, 2, 6]
        return gate

    assert run(abandon_third()).batches == [[0], [1, 3]]


def test_entry_abandoned_while_prepared_is_not_run(create_batcher: CreateBatcher) -> None:
    async def abandon() -> Gate:
        gate, preparing, go_on = Gate(), threading.Event(), threading.Event()
        batcher = create_batcher(gate, 1)

        def prepare() -> int:
            preparing.set()
            go_on.wait(5)
            return 7

        task = asyncio.create_task(batcher.submit(prepare, pair))
        await wait_until(preparing.is_set)
        task.cancel()
        await settle()
        gate.open.set()
        go_on.set()
        assert await submit(batcher, gate, 1) == 2
        return gate

    assert run(abandon()).batches == [[1]]


def test_every_thread_is_used(create_batcher: CreateBatcher) -> None:
    async def meet_twice() -> None:
        meeting = threading.Barrier(2, timeout=5)

        def meet(items: Sequence[int]) -> Sequence[int]:
            meeting.wait()
            return items

        batcher = create_batcher(meet, 1, size=2)
        submissions = [batcher.submit(lambda: 1, pair), batcher.submit(lambda: 2, pair)]
        assert list(await asyncio.gather(*submissions)) == [(1, 1), (2, 2)]

    run(meet_twice())


def test_queues_take_turns_whatever_their_length(create_pool: CreatePool) -> None:
    async def record_order() -> list[str]:
        pool, start, order = create_pool(), threading.Event(), []

        def record(name: str, items: Sequence[int]) -> Sequence[int]:
            start.wait(5)
            order.append(name)
            return items

        busy = Batcher[int, int](partial(record, "busy"), 1, 100, pool, pool)
        quiet = Batcher[int, int](partial(record, "quiet"), 1, 100, pool, pool)
        tasks = [asyncio.create_task(busy.submit(lambda: 0, pair)) for _ in range(6)]
        await settle()
        tasks += [asyncio.create_task(quiet.submit(lambda: 0, pair)) for _ in range(2)]
        job = asyncio.create_task(pool.run(order.append, "job"))
        await settle()
        start.set()
        await asyncio.gather(*tasks, job)
        return order

    assert run(record_order()) == ["busy", "busy", "quiet", "job", "busy", "quiet", "busy", "busy", "busy"]
