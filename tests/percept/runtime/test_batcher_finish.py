"""`finish` makes the reply of each entry: on a worker thread, in the caller's context, for its caller alone."""

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar

from percept.runtime.batcher import Batcher
from percept.runtime.worker_pool import WorkerPool
from tests.percept.runtime.gate import Gate, pair, run, settle, submit, wait_until

CreatePool = Callable[..., WorkerPool]
CreateBatcher = Callable[..., Batcher[int, int]]

CALLER: ContextVar[str] = ContextVar("caller", default="none")


def test_finish_runs_on_a_worker_in_the_callers_context(create_batcher: CreateBatcher) -> None:
    def identify(item: int, result: int) -> tuple[str, str, int, int]:
        return CALLER.get(), threading.current_thread().name, item, result

    async def call(batcher: Batcher[int, int], gate: Gate, name: str, item: int) -> tuple[str, str, int, int]:
        CALLER.set(name)
        return await batcher.submit(gate.prepare(item), identify)

    async def call_three() -> list[tuple[str, str, int, int]]:
        gate = Gate()
        batcher = create_batcher(gate, 4)
        tasks = [asyncio.create_task(call(batcher, gate, name, k)) for k, name in enumerate(("a", "b", "c"))]
        await asyncio.sleep(0.05)  # another pool prepares the next batch
        gate.open.set()
        found: list[tuple[str, str, int, int]] = await asyncio.gather(*tasks)
        assert max(map(len, gate.batches)) == 2, "the last two are one batch"
        return found

    found = run(call_three())
    assert [(caller, item, result) for caller, _, item, result in found] == [("a", 0, 0), ("b", 1, 2), ("c", 2, 4)]
    assert all(thread.startswith("test") for _, thread, _, _ in found), "the threads of the pool are named test"


def test_finish_is_skipped_if_the_caller_was_cancelled(create_batcher: CreateBatcher) -> None:
    async def abandon() -> list[int]:
        gate, finished = Gate(), list[int]()
        batcher = create_batcher(gate, 4)
        tasks = [asyncio.create_task(batcher.submit(gate.prepare(0), lambda item, _: finished.append(item)))]
        await wait_until(gate.reached.is_set)
        for k in range(1, 4):
            tasks.append(asyncio.create_task(batcher.submit(gate.prepare(k), lambda item, _: finished.append(item))))
        await settle()
        tasks[0].cancel()  # its pass runs alone and cannot be stopped
        gate.open.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        return finished

    assert run(abandon()) == [1, 2, 3]


def test_finish_is_skipped_for_one_entry_of_a_batch(create_batcher: CreateBatcher) -> None:
    async def abandon() -> list[int]:
        gate, second = Gate(), Gate()
        finished: list[int] = []
        batcher = create_batcher(lambda items: (second if 2 in items else gate)(items), 4)
        tasks = [asyncio.create_task(batcher.submit(gate.prepare(0), lambda item, _: None))]
        await wait_until(gate.reached.is_set)
        for k in (1, 2, 3):
            tasks.append(asyncio.create_task(batcher.submit(gate.prepare(k), lambda item, _: finished.append(item))))
        await asyncio.sleep(0.05)  # another pool prepares the next batch
        gate.open.set()
        await wait_until(second.reached.is_set)
        tasks[2].cancel()  # while the batch of 1, 2 and 3 runs
        await settle()
        second.open.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert second.batches == [[1, 2, 3]]
        return finished

    assert run(abandon()) == [1, 3]


def test_exception_of_finish_reaches_only_its_caller(create_batcher: CreateBatcher) -> None:
    def fail(item: int, result: int) -> int:
        raise ValueError(f"no reply for {item}")

    async def call_four() -> tuple[list[object], Gate]:
        gate = Gate()
        batcher = create_batcher(gate, 4)
        coroutines = [submit(batcher, gate, 0), submit(batcher, gate, 1), submit(batcher, gate, 3)]
        coroutines.insert(2, batcher.submit(gate.prepare(2), fail))
        tasks = [asyncio.create_task(one) for one in coroutines]
        await settle()
        gate.open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert await batcher.submit(gate.prepare(5), pair) == (5, 10), "the threads go on"
        return list(results), gate

    results, gate = run(call_four())
    assert [results[0], results[1], results[3]] == [0, 2, 6]
    assert str(results[2]) == "no reply for 2"
    assert sorted(item for batch in gate.batches for item in batch) == [0, 1, 2, 3, 5], "no item is run again"


def test_single_entry_fails_with_the_exception_of_finish(create_batcher: CreateBatcher) -> None:
    def fail(item: int, result: int) -> int:
        raise ValueError("no reply")

    async def call() -> list[object]:
        gate = Gate()
        gate.open.set()
        batcher = create_batcher(gate, 1)
        return list(await asyncio.gather(batcher.submit(gate.prepare(1), fail), return_exceptions=True))

    assert str(run(call())[0]) == "no reply"


def test_entries_of_a_batch_finish_in_turns_of_their_own(create_pool: CreatePool) -> None:
    """Two threads finish two entries of one batch at the same time, though one of the threads has run the batch."""

    async def meet() -> list[tuple[int, int]]:
        gate, meeting, pool = Gate(), threading.Barrier(2, timeout=5), create_pool(2)
        batcher = Batcher(gate, 2, 100, pool, pool)
        blocker = asyncio.create_task(pool.run(gate.open.wait, 5))  # one thread is left for the batch
        first = asyncio.create_task(submit(batcher, gate, 0))
        await wait_until(gate.reached.is_set)

        def finish(item: int, result: int) -> tuple[int, int]:
            meeting.wait()
            return item, threading.get_ident()

        tasks = [asyncio.create_task(batcher.submit(gate.prepare(k), finish)) for k in (1, 2)]
        await settle()
        gate.open.set()
        await asyncio.gather(blocker, first)
        return list(await asyncio.gather(*tasks))

    found = run(meet())
    assert [item for item, _ in found] == [1, 2]
    assert found[0][1] != found[1][1]


def test_other_work_has_a_turn_between_two_finishes(create_pool: CreatePool) -> None:
    async def record_order() -> list[str]:
        gate, order, pool = Gate(), list[str](), create_pool()
        batcher = Batcher(gate, 4, 100, pool, pool)
        first = asyncio.create_task(submit(batcher, gate, 0))
        await wait_until(gate.reached.is_set)
        tasks = [
            asyncio.create_task(batcher.submit(gate.prepare(k), lambda item, _: order.append(f"finish {item}")))
            for k in (1, 2)
        ]
        jobs = [asyncio.create_task(pool.run(order.append, "job")) for _ in range(3)]
        await settle()
        gate.open.set()
        await asyncio.gather(first, *tasks, *jobs)
        return order

    order = run(record_order())
    between = order[order.index("finish 1") : order.index("finish 2")]
    assert "job" in between, order
