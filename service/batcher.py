"""A work-conserving batcher: a batch is whatever queued while the threads were busy, never waited for.

An item comes in as a function that makes it, which is not called before its turn has come: who gave up meanwhile costs
nothing. Items go in batches through a blocking function, and each result returns to whoever submitted its item. It
knows no image and no ONNX. Everything but those functions runs on the event loop, so there is no lock. (The idea:
text-embeddings-inference, `core/src/queue.rs` and `infer.rs`.)
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any, Generic, TypeVar

from service.crew import Afterwards, Crew, Order, Work
from service.errors import QueueFull
from service.stages import note

Item = TypeVar("Item")
Result = TypeVar("Result")

Made = tuple[Order, Any]  # an order and its item
Outcome = tuple[Order, Any, bool]  # an order, its item and result or the error, and whether it is that


class Batcher(Generic[Item, Result]):
    """Calls `run` with up to `max_batch` items on the threads of `device`; `run` returns one result per item.

    Where `host` is another crew its threads make the items of the next batches while one runs; else whoever runs a
    batch makes its items first. At most `capacity` items wait; beyond that `submit` raises `QueueFull`.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        max_batch: int,
        capacity: int,
        host: Crew,
        device: Crew,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._capacity = capacity
        self._host, self._device = host, device
        self._admitted = 0
        self._waiting: deque[Order] = deque()
        self._making = 0
        self._made: deque[Made] = deque()

    @property
    def width(self) -> int:
        """How many items the threads take at once."""
        return self._max_batch * self._device.size

    @contextmanager
    def room(self) -> Iterator[None]:
        """A place from before anything is done for a request until it is answered; raises `QueueFull` at once.

        There are as many as items may wait, and those that the threads take.
        """
        if self._admitted >= self._capacity + self.width:
            raise self._full()
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def submit(self, make: Callable[[], Item]) -> tuple[Item, Result]:
        """The item that `make` gives and its result; raises what `make` or `run` raised, or `QueueFull` at once.

        Cancelling the caller drops the item if its batch has not begun.
        """
        if len(self._waiting) >= self._capacity:
            raise self._full()
        order = Order(make)
        self._waiting.append(order)
        if self._host is self._device:
            self._device.call(self._next_whole)
        else:
            self._host.call(self._next_item)
        found: tuple[Item, Result] = await order.reply
        return found

    def _full(self) -> QueueFull:
        return QueueFull(f"{self._capacity} images are waiting already; try again in a moment")

    def _next_whole(self) -> Work | None:
        """Items and their results in one go."""
        batch: list[Order] = []
        while self._waiting and len(batch) < self._max_batch:
            order = self._waiting.popleft()
            if not order.reply.done():
                batch.append(order)
        return partial(self._whole, batch) if batch else None

    def _next_item(self) -> Work | None:
        """One item, as long as no more than the next batch of every thread lies ready."""
        while self._waiting and self._making + len(self._made) < 2 * self.width:
            order = self._waiting.popleft()
            if not order.reply.done():
                self._making += 1
                return partial(self._item, order)
        return None

    def _next_batch(self) -> Work | None:
        """The results of the items that lie ready."""
        batch: list[Made] = []
        while self._made and len(batch) < self._max_batch:
            order, item = self._made.popleft()
            if not order.reply.done():
                batch.append((order, item))
        self._host.call(self._next_item)
        return partial(self._batch, batch) if batch else None

    def _whole(self, batch: Sequence[Order]) -> Afterwards:
        made = [_made(order) for order in batch]
        failed = [one for one in made if one[2]]
        wanted = [(order, item) for order, item, bad in made if not (bad or order.reply.done())]
        return partial(_settle, failed + self._results(wanted))

    def _item(self, order: Order) -> Afterwards:
        return partial(self._lay_ready, _made(order), perf_counter())

    def _lay_ready(self, made: Outcome, since: float) -> None:
        self._making -= 1
        order, item, failed = made
        if failed:
            _settle([made])
            return
        order.since = since
        self._made.append((order, item))
        self._device.call(self._next_batch)

    def _batch(self, batch: Sequence[Made]) -> Afterwards:
        for order, _ in batch:
            order.context.run(note, "queue", perf_counter() - order.since)
        return partial(_settle, self._results(batch))

    def _results(self, batch: Sequence[Made]) -> list[Outcome]:
        """What came of each item. One that is poisonous must not fail its neighbours: each is tried again alone."""
        if not batch:
            return []
        start = perf_counter()
        try:
            results = list(zip(batch, self._run([item for _, item in batch]), strict=True))
        except Exception as error:
            if len(batch) == 1:
                return [(batch[0][0], error, True)]
            return [outcome for one in batch for outcome in self._results([one])]
        for order, _ in batch:
            order.context.run(note, "infer", perf_counter() - start)
        return [(order, (item, result), False) for (order, item), result in results]


def _made(order: Order) -> Outcome:
    try:
        return order, order.begin(), False
    except Exception as error:
        return order, error, True


def _settle(outcomes: Sequence[Outcome]) -> None:
    for order, outcome, failed in outcomes:
        order.settle(outcome, failed)
