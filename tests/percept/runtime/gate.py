"""What the tests of the worker pool and the batcher share: work that waits for a signal, and waiting for threads."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from percept.runtime.batcher import Batcher
from percept.runtime.worker_pool import WorkerPool

TIMEOUT_S = 20


class Gate:
    """A network that doubles numbers once the gate is open, and fails for a batch with a negative number."""

    def __init__(self) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []
        self.prepared: list[int] = []

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.reached.set()
        self.open.wait(5)
        self.batches.append(list(items))
        if min(items) < 0:
            raise ValueError("a number is negative")
        return [2 * item for item in items]

    def prepare(self, item: int) -> Callable[[], int]:
        """A function that prepares a number and records that it was called."""

        def prepare() -> int:
            self.prepared.append(item)
            return item

        return prepare


@contextmanager
def worker_pool(size: int = 1) -> Iterator[WorkerPool]:
    """A worker pool that is closed at the end."""
    pool = WorkerPool(size, "test")
    try:
        yield pool
    finally:
        pool.close()


async def submit(batcher: Batcher[int, int], gate: Gate, item: int) -> int:
    """Double a number; checks that `finish` receives the item that was prepared."""
    prepared, result = await batcher.submit(gate.prepare(item), pair)
    assert prepared == item
    return result


def pair(item: int, result: int) -> tuple[int, int]:
    """The simplest `finish`: the item and its result."""
    return item, result


async def settle() -> None:
    """Let every task on the event loop run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def wait_until(condition: Callable[[], bool]) -> None:
    """Poll a condition that another thread makes true; raises `TimeoutError`."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on an event loop of its own; raises `TimeoutError`."""
    return asyncio.run(asyncio.wait_for(coroutine, TIMEOUT_S))
