"""A few threads that several queues share, fairly: turns go round those that have something to do.

A source is a function that gives the next piece of work, or None where there is none; it must be brief. A thread that
is done takes its next work itself: were it to ask the event loop, it would lie idle for as long as that is busy.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

from percept.telemetry.context import note

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(eq=False)
class Order:
    """A function that makes something, in the context of whoever wants it, and where that goes."""

    act: Callable[[], Any]
    reply: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    context: Context = field(default_factory=copy_context)
    since: float = field(default_factory=perf_counter)

    @property
    def given_up(self) -> bool:
        """Whether nobody waits for it any longer."""
        return self.reply.done()

    def carry_out(self) -> "Outcome":
        """Make it, on a thread."""
        try:
            return self, self.context.run(self._noted), False
        except BaseException as error:  # it is for whoever waits, whatever it is
            return self, error, True

    def waited(self) -> None:
        """Note how long it waited in a queue, until now."""
        note("queue", self.since, perf_counter())

    def _noted(self) -> Any:
        self.waited()
        return self.act()


Outcome = tuple[Order, Any, bool]  # an order, what came of it, and whether that is an error
Work = Callable[[], Sequence[Outcome]]  # must not raise
Source = Callable[[], Work | None]


class Crew:
    """`size` threads; `busy` of them are at work."""

    def __init__(self, size: int, name: str) -> None:
        self.size = size
        self.busy = 0
        self._lock = Lock()
        self._calling: deque[Source] = deque()
        self._orders: deque[Order] = deque()
        self._closed = False
        self._executor = ThreadPoolExecutor(size, thread_name_prefix=name)

    def call(self, source: Source) -> None:
        """Ask a source for work, now and each time that its turn comes, until it has none. Any thread may do this."""
        with self._lock:
            if source not in self._calling:
                self._calling.append(source)
            if self.busy == self.size or self._closed:
                return
            self.busy += 1
        self._executor.submit(self._work)

    async def do(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking function when its turn comes. Cancelling the caller drops it if it has not begun."""
        order = Order(partial(act, *args, **kwargs))
        self._orders.append(order)
        self.call(self._next_order)
        found: T = await order.reply
        return found

    def close(self) -> None:
        """Stop the threads once they are done with what they hold."""
        self._closed = True
        self._executor.shutdown(wait=False)

    def _work(self) -> None:
        while work := self._next():
            if outcomes := work():
                outcomes[0][0].reply.get_loop().call_soon_threadsafe(_settle, outcomes)

    def _next(self) -> Work | None:
        with self._lock:
            while self._calling and not self._closed:
                source = self._calling.popleft()
                if work := source():
                    self._calling.append(source)
                    return work
            self.busy -= 1
            return None

    def _next_order(self) -> Work | None:
        while self._orders:
            order = self._orders.popleft()
            if not order.given_up:
                return lambda: [order.carry_out()]
        return None


def _settle(outcomes: Sequence[Outcome]) -> None:
    """Answer those who still wait, on the event loop."""
    for order, found, failed in outcomes:
        if order.given_up:
            continue
        if failed:
            order.reply.set_exception(found)
        else:
            order.reply.set_result(found)
