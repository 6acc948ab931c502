"""A work-conserving batcher: a batch is whatever queued while the threads were busy, never waited for.

An item comes in as a function that makes it, which is not called before its turn has come: who gave up meanwhile costs
nothing. Items go in batches through a blocking function, and each result returns to whoever submitted its item. It
knows no image and no ONNX. Items are submitted on the event loop; threads take them, one at a time by the lock of their
crew. (The idea: text-embeddings-inference, `core/src/queue.rs` and `infer.rs`.)
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Generic, TypeVar

from percept.errors import QueueFull
from percept.runtime.worker_pool import Crew, Order, Outcome, Work
from percept.telemetry.context import note

Item = TypeVar("Item")
Result = TypeVar("Result")

PACED = 0.1  # weight of the last batch in the pace
MAX_RETRY_S = 60

Made = tuple[Order, Any]  # an order and its item


@dataclass(frozen=True)
class Watch:
    """Who is told for how many seconds an item waited until a thread took it, and how many items are in each run.

    Both are called on any thread and must be brief.
    """

    waited: Callable[[float], object]
    ran: Callable[[int], object]


UNWATCHED = Watch(lambda _: None, lambda _: None)


class Batcher(Generic[Item, Result]):
    """Calls `run` with up to `max_batch` items on the threads of `device`; `run` returns one result per item.

    Where `host` is another crew its threads make the items of the next batches while one runs; else whoever runs a
    batch makes its items first. `room` admits as many requests as may wait, `capacity`, and those that are served.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        max_batch: int,
        capacity: int,
        host: Crew,
        device: Crew,
        watch: Watch = UNWATCHED,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self.capacity = capacity
        self._host, self._device = host, device
        self._watch = watch
        self._admitted = 0
        self._pace_s = 0.0  # that a thread takes for an item, of late
        self._waiting: deque[Order] = deque()
        self._making: set[Order] = set()
        self._made: deque[Made] = deque()

    @property
    def width(self) -> int:
        """How many items the threads take at once."""
        return self._max_batch * self._device.size

    @property
    def depth(self) -> int:
        """How many items wait now: somebody wants them, and no thread has taken them yet."""
        return sum(not order.given_up for order in self._waiting.copy())  # threads take from it meanwhile

    def check(self) -> None:
        """Raise `QueueFull` where there is no room now: sooner than anything is read for nothing."""
        if self._admitted >= self.capacity + self.width:
            wait = min(max(1, math.ceil(self._admitted * self._pace_s / self._device.size)), MAX_RETRY_S)
            raise QueueFull(f"{self.capacity} images are waiting already; try again in {wait} s", wait)

    @contextmanager
    def room(self) -> Iterator[None]:
        """A place from before anything is done for a request until it is answered; raises `QueueFull` at once.

        There are as many as items may wait, and those that the threads take.
        """
        self.check()
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def submit(self, make: Callable[[], Item]) -> tuple[Item, Result]:
        """The item that `make` gives and its result; raises what `make` or `run` raised.

        Who was admitted is not refused any longer, however many items its answer takes. Cancelling the caller drops the
        item if its batch has not begun.
        """
        order = Order(make)
        self._waiting.append(order)
        if self._host is self._device:
            self._device.call(self._next_whole)
        else:
            self._host.call(self._next_item)
        found: tuple[Item, Result] = await order.reply
        return found

    def _next_whole(self) -> Work | None:
        """Items and their results in one go."""
        batch: list[Order] = []
        while self._waiting and len(batch) < self._max_batch:
            order = self._taken()
            if not order.given_up:
                batch.append(order)
        return partial(self._whole, batch) if batch else None

    def _next_item(self) -> Work | None:
        """One item, as long as no more than the next batch of every thread lies ready."""
        while self._waiting and len(self._making) + len(self._made) < 2 * self.width:
            order = self._taken()
            if not order.given_up:
                self._making.add(order)
                return partial(self._item, order)
        return None

    def _next_batch(self) -> Work | None:
        """The results of the items that lie ready."""
        batch: list[Made] = []
        while self._made and len(batch) < self._max_batch:
            order, item = self._made.popleft()
            if not order.given_up:
                batch.append((order, item))
        self._host.call(self._next_item)
        return partial(self._batch, batch) if batch else None

    def _taken(self) -> Order:
        """The order that waited longest. Who gave up waited too, and tells most of a queue that is too long."""
        order = self._waiting.popleft()
        self._watch.waited(perf_counter() - order.since)
        return order

    def _whole(self, batch: Sequence[Order]) -> Sequence[Outcome]:
        start = perf_counter()
        outcomes = [order.carry_out() for order in batch]
        failed = [outcome for outcome in outcomes if outcome[2]]
        made = [(order, item) for order, item, bad in outcomes if not (bad or order.given_up)]
        results = self._results(made)
        self._keep_pace(start, len(batch))
        return failed + results

    def _item(self, order: Order) -> Sequence[Outcome]:
        outcome = order.carry_out()
        if outcome[2]:
            self._making.discard(order)
            self._host.call(self._next_item)
            return [outcome]
        order.since = perf_counter()
        self._made.append((order, outcome[1]))
        self._making.discard(order)
        self._device.call(self._next_batch)
        return []

    def _batch(self, batch: Sequence[Made]) -> Sequence[Outcome]:
        for order, _ in batch:
            order.context.run(order.waited)
        start = perf_counter()
        results = self._results(batch)
        self._keep_pace(start, len(batch))
        return results

    def _keep_pace(self, start: float, items: int) -> None:
        self._pace_s += PACED * ((perf_counter() - start) / items - self._pace_s)

    def _results(self, batch: Sequence[Made]) -> list[Outcome]:
        """What came of each item. One that is poisonous must not fail its neighbours: each is tried again alone."""
        if not batch:
            return []
        self._watch.ran(len(batch))
        start = perf_counter()
        try:
            results = list(zip(batch, self._run([item for _, item in batch]), strict=True))
        except Exception as error:
            if len(batch) == 1:
                return [(batch[0][0], error, True)]
            return [outcome for one in batch for outcome in self._results([one])]
        end = perf_counter()
        for order, _ in batch:
            order.context.run(note, "infer", start, end)
        return [(order, (item, result), False) for (order, item), result in results]
