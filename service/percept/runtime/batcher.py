"""A work-conserving batcher: a batch consists of the entries that queued while the threads were busy.

No thread waits for a batch to fill up. An entry is submitted as two functions: `prepare` makes its item when a thread
takes the entry, and `finish` makes the reply to the caller from the item and its result. Entries whose caller was
cancelled are dropped before each step. The event loop submits entries; threads take them under the lock of their pool.
The batcher knows no image and no ONNX.

The design follows text-embeddings-inference (`core/src/queue.rs`, `core/src/infer.rs`).
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, Generic, TypeVar

from percept.errors import QueueFull
from percept.runtime.worker_pool import Job, Outcome, Work, WorkerPool
from percept.telemetry.context import record_stage

Item = TypeVar("Item")
Result = TypeVar("Result")
T = TypeVar("T")

PACE_WEIGHT = 0.1  # of the last batch in the moving average of seconds per item
MAX_RETRY_S = 60


@dataclass(frozen=True)
class BatchObserver:
    """Receives the seconds that each entry waited for a thread, and the number of items in each run.

    Both functions are called on worker threads and must return quickly.
    """

    waited: Callable[[float], object]
    ran: Callable[[int], object]


NO_OBSERVER = BatchObserver(lambda _: None, lambda _: None)


@dataclass(eq=False)
class Entry(Job):
    """A job whose `function` prepares its `item`; `finish(item, result)` makes the reply."""

    finish: Callable[[Any, Any], Any] = lambda item, result: (item, result)
    item: Any = field(default=None, init=False)
    result: Any = field(default=None, init=False)


class Batcher(Generic[Item, Result]):
    """Calls `run` with up to `max_batch` items on the threads of `device`; `run` returns one result per item.

    If `host` is another pool, its threads prepare the items of the next batches while one runs, and finish them
    afterwards; else the thread that runs a batch does all of it. `admit` bounds the requests: `capacity` may wait
    besides those that are being served.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        max_batch: int,
        capacity: int,
        host: WorkerPool,
        device: WorkerPool,
        observer: BatchObserver = NO_OBSERVER,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self.capacity = capacity
        self.concurrency = max_batch * device.size  # how many items the threads run at once
        self._host, self._device = host, device
        self._observer = observer
        self._admitted = 0
        self._pace_s = 0.0  # moving average of the seconds that a thread takes for one item
        self._waiting: deque[Entry] = deque()
        self._preparing: set[Entry] = set()
        self._prepared: deque[Entry] = deque()
        self._ran: deque[Entry] = deque()

    @property
    def depth(self) -> int:
        """How many entries wait for a thread; abandoned ones do not count."""
        return sum(not entry.abandoned for entry in self._waiting.copy())  # threads take entries meanwhile

    def check_capacity(self) -> None:
        """Raise `QueueFull` if `admit` would; call it before work that would then be wasted."""
        if self._admitted >= self.capacity + self.concurrency:
            wait = min(max(1, math.ceil(self._admitted * self._pace_s / self._device.size)), MAX_RETRY_S)
            raise QueueFull(f"{self.capacity} requests are waiting already; try again in {wait} s", wait)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place in the queue for one request, however many items it takes; raises `QueueFull`."""
        self.check_capacity()
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def submit(self, prepare: Callable[[], Item], finish: Callable[[Item, Result], T]) -> T:
        """Run an entry; returns the reply that `finish` makes from the prepared item and its result.

        All three steps run on worker threads. Raises what `prepare`, `run` or `finish` raised. If the caller is
        cancelled, the steps that have not begun are dropped.
        """
        entry = Entry(prepare, finish=finish)
        self._waiting.append(entry)
        if self._host is self._device:
            self._device.wake(self._next_batch)
        else:
            self._host.wake(self._next_preparation)
        reply: T = await entry.reply
        return reply

    # One pool: a thread prepares and runs a batch; it finishes an entry at once if that is alone in its batch.

    def _next_batch(self) -> Work | None:
        # Entries to finish come before the next batch: each takes a turn, and they would pile up behind batches.
        if self._ran and (finishing := self._next_finish()):
            return finishing
        batch: list[Entry] = []
        while self._waiting and len(batch) < self._max_batch:
            entry = self._waiting.popleft()
            self._observer.waited(perf_counter() - entry.queued_at)
            if not entry.reply.done():
                batch.append(entry)
        if len(batch) == 1:
            return lambda: [batch[0].call(self._process_entry, batch[0])]
        return partial(self._process_batch, batch) if batch else None

    def _process_entry(self, entry: Entry) -> Any:
        """Prepare, run and finish one entry, in its context; returns its reply, or None once it is abandoned."""
        start = perf_counter()
        record_stage("queue", entry.queued_at, start)
        try:
            item = entry.function()
            if entry.reply.done():
                return None
            self._observer.ran(1)
            run_start = perf_counter()
            result = self._run([item])[0]  # a batch of one
            record_stage("infer", run_start, perf_counter())
            return None if entry.reply.done() else entry.finish(item, result)
        finally:
            self._pace_s += PACE_WEIGHT * (perf_counter() - start - self._pace_s)

    def _process_batch(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        start = perf_counter()
        failed = [outcome for outcome in map(_prepare, batch) if outcome.failed]
        broken = {outcome.job for outcome in failed}
        outcomes, ran = self._run_batch([entry for entry in batch if entry not in broken and not entry.abandoned])
        self._finish_later(ran)
        self._update_pace(start, len(batch))
        return failed + outcomes

    # Two pools: the host prepares and finishes, the device runs.

    def _next_preparation(self) -> Work | None:
        """Prepare one item, unless the next batch of every device thread is ready."""
        while self._waiting and len(self._preparing) + len(self._prepared) < 2 * self.concurrency:
            entry = self._waiting.popleft()
            self._observer.waited(perf_counter() - entry.queued_at)
            if not entry.abandoned:
                self._preparing.add(entry)
                return partial(self._run_preparation, entry)
        return None

    def _run_preparation(self, entry: Entry) -> Sequence[Outcome]:
        outcome = _prepare(entry)
        if outcome.failed:
            self._preparing.discard(entry)
            self._host.wake(self._next_preparation)
            return [outcome]
        entry.queued_at = perf_counter()
        self._prepared.append(entry)
        self._preparing.discard(entry)
        self._device.wake(self._next_prepared_batch)
        return []

    def _next_prepared_batch(self) -> Work | None:
        batch: list[Entry] = []
        while self._prepared and len(batch) < self._max_batch:
            entry = self._prepared.popleft()
            if not entry.abandoned:
                batch.append(entry)
        self._host.wake(self._next_preparation)
        return partial(self._run_prepared_batch, batch) if batch else None

    def _run_prepared_batch(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        for entry in batch:
            entry.context.run(entry.record_wait)
        start = perf_counter()
        outcomes, ran = self._run_batch(batch)
        self._update_pace(start, len(batch))
        self._finish_later(ran)
        return outcomes

    def _finish_later(self, entries: Sequence[Entry]) -> None:
        """Queue each entry to be finished in a turn of its own, on any thread of the host."""
        for entry in entries:
            entry.queued_at = perf_counter()
            self._ran.append(entry)
            self._host.wake(self._next_batch if self._host is self._device else self._next_finish)

    def _next_finish(self) -> Work | None:
        while self._ran:
            entry = self._ran.popleft()
            if not entry.abandoned:
                return partial(self._run_finish, entry)
        return None

    def _run_finish(self, entry: Entry) -> Sequence[Outcome]:
        entry.context.run(entry.record_wait)
        return [_finish(entry)]

    def _run_batch(self, batch: Sequence[Entry]) -> tuple[list[Outcome], list[Entry]]:
        """Run a batch; returns the failures and the entries that have a result. If it fails, each item is run alone."""
        if not batch:
            return [], []
        self._observer.ran(len(batch))
        start = perf_counter()
        try:
            results = list(zip(batch, self._run([entry.item for entry in batch]), strict=True))
        except Exception as error:
            if len(batch) == 1:
                return [Outcome(batch[0], error, failed=True)], []
            alone = [self._run_batch([entry]) for entry in batch]
            return [one for outcomes, _ in alone for one in outcomes], [one for _, ran in alone for one in ran]
        end = perf_counter()
        for entry, result in results:
            entry.result = result
            entry.context.run(record_stage, "infer", start, end)
        return [], list(batch)

    def _update_pace(self, start: float, items: int) -> None:
        self._pace_s += PACE_WEIGHT * ((perf_counter() - start) / items - self._pace_s)


def _prepare(entry: Entry) -> Outcome:
    outcome = entry.run()
    entry.item = outcome.value
    return outcome


def _finish(entry: Entry) -> Outcome:
    return entry.call(entry.finish, entry.item, entry.result)
