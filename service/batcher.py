"""A work-conserving batcher: a batch is whatever queued while the workers were busy, never waited for.

Items come in through `submit`, go in batches through a blocking function on worker threads, and each result
returns to whoever submitted its item. It knows no image and no ONNX. Everything but the function itself runs
on the event loop, so there is no lock. (The idea: text-embeddings-inference, `core/src/queue.rs`.)
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.errors import QueueFull

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Entry(Generic[Item, Result]):
    """One item on its way, carrying its own reply."""

    item: Item
    reply: asyncio.Future[Result]


class Batcher(Generic[Item, Result]):
    """Calls `run` with up to `max_batch` items on each of `workers` threads; `run` returns one result per item.

    At most `capacity` items wait; beyond that `submit` raises `QueueFull`.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        max_batch: int,
        capacity: int,
        workers: int,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._capacity = capacity
        self._idle = self._workers = workers
        self._admitted = 0
        self._waiting: deque[Entry[Item, Result]] = deque()
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="batch")
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def width(self) -> int:
        """How many items the workers take at once."""
        return self._max_batch * self._workers

    @contextmanager
    def room(self) -> Iterator[None]:
        """A place from before an item is made until all that is asked of it is known; raises `QueueFull` at once.

        There are as many as items may wait, and those that the workers take: what makes items is bounded too.
        """
        if self._admitted >= self._capacity + self.width:
            raise self._full()
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def submit(self, item: Item) -> Result:
        """The result for `item`; raises what `run` raised for it, or `QueueFull` at once.

        Cancelling the caller drops the item from the queue if its batch has not begun.
        """
        if len(self._waiting) >= self._capacity:
            raise self._full()
        entry = Entry[Item, Result](item, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        self._dispatch()
        return await entry.reply

    def close(self) -> None:
        """Stop the worker threads once they are done with what they hold."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _full(self) -> QueueFull:
        return QueueFull(f"{self._capacity} images are waiting already; try again in a moment")

    def _dispatch(self) -> None:
        while self._idle and (batch := self._form()):
            self._idle -= 1
            task = asyncio.create_task(self._serve(batch))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    def _form(self) -> list[Entry[Item, Result]]:
        batch: list[Entry[Item, Result]] = []
        while self._waiting and len(batch) < self._max_batch:
            entry = self._waiting.popleft()
            if not entry.reply.done():
                batch.append(entry)
        return batch

    async def _serve(self, batch: list[Entry[Item, Result]]) -> None:
        try:
            await self._answer(batch)
        finally:
            self._idle += 1
            self._dispatch()

    async def _answer(self, batch: list[Entry[Item, Result]]) -> None:
        try:
            results = await asyncio.get_running_loop().run_in_executor(
                self._executor, self._run, [entry.item for entry in batch]
            )
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0], error)
                return
            # One poisonous item must not fail its neighbours: each is tried again alone.
            for entry in batch:
                await self._answer([entry])
        else:
            for entry, result in zip(batch, results, strict=True):
                _settle(entry, result)


def _settle(entry: Entry[Item, Result], outcome: Result | Exception) -> None:
    if entry.reply.done():
        return
    if isinstance(outcome, Exception):
        entry.reply.set_exception(outcome)
    else:
        entry.reply.set_result(outcome)
