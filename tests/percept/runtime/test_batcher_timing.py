"""The batcher records how long each request waits and runs, and reports waits and batch sizes to its observer."""

import asyncio
from collections.abc import Callable

import pytest

from percept.runtime.batcher import Batcher, BatchObserver
from percept.runtime.worker_pool import WorkerPool
from percept.telemetry.context import begin_request
from tests.percept.runtime.gate import Gate, run, submit, wait_until


def test_queue_and_infer_seconds_are_recorded(create_batcher: Callable[..., Batcher[int, int]]) -> None:
    async def request(batcher: Batcher[int, int], gate: Gate, item: int) -> dict[str, float]:
        context = begin_request()
        await submit(batcher, gate, item)
        return context.stage_seconds

    async def measure() -> list[dict[str, float]]:
        gate = Gate()
        batcher = create_batcher(gate, 2)
        tasks = [asyncio.create_task(request(batcher, gate, k)) for k in range(3)]
        await wait_until(gate.reached.is_set)
        await asyncio.sleep(0.05)
        gate.open.set()
        return await asyncio.gather(*tasks)

    first, second, third = run(measure())
    assert first["infer"] >= 0.05
    assert second["queue"] >= 0.05
    assert second.keys() == third.keys() == {"queue", "infer"}
    assert second["infer"] == pytest.approx(third["infer"], abs=0.01)
    assert second["infer"] < first["infer"]


def test_observer_receives_every_wait_and_batch_size(create_pool: Callable[..., WorkerPool]) -> None:
    """Abandoned entries waited too. The items of a batch that fails are run again one by one."""
    waits: list[float] = []
    sizes: list[int] = []

    async def measure() -> None:
        gate, pool = Gate(), create_pool()
        batcher = Batcher(gate, 4, 100, pool, pool, BatchObserver(waits.append, sizes.append))
        tasks = [asyncio.create_task(submit(batcher, gate, item)) for item in (1, 2, -3, 4, 5)]
        await wait_until(lambda: gate.prepared == [1])
        tasks[1].cancel()
        await asyncio.sleep(0.05)
        gate.open.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(measure())
    assert len(waits) == 5
    assert 0 <= waits[0] < min(waits[1:])
    assert min(waits[1:]) >= 0.05
    assert sizes == [1, 3, 1, 1, 1]
