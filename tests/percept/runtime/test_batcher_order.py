"""One pool finishes the entries of a batch before it runs the next batch."""

import asyncio
from collections.abc import Sequence

from percept.runtime.batcher import Batcher
from tests.percept.runtime.gate import Gate, run, settle, wait_until, worker_pool


def test_batch_is_finished_before_the_next_batch_runs() -> None:
    async def run_three_batches() -> list[str]:
        gate, events = Gate(), list[str]()

        def run_batch(items: Sequence[int]) -> list[int]:
            results = gate(items)
            events.append(f"run {items}")
            return results

        def finish(item: int, _result: int) -> None:
            events.append(f"finish {item}")

        with worker_pool() as pool:
            batcher = Batcher(run_batch, 2, 100, pool, pool)
            tasks = [asyncio.create_task(batcher.submit(gate.prepare(0), finish))]
            await wait_until(gate.reached.is_set)
            tasks += [asyncio.create_task(batcher.submit(gate.prepare(k), finish)) for k in range(1, 5)]
            await settle()
            gate.open.set()
            await asyncio.gather(*tasks)
        return events

    first = ["run [0]", "finish 0"]
    second = ["run [1, 2]", "finish 1", "finish 2"]
    third = ["run [3, 4]", "finish 3", "finish 4"]
    assert run(run_three_batches()) == first + second + third
