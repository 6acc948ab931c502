"""A few threads that several queues share, fairly: turns go round those that have something to do.

A source is a function that gives the next piece of work, or None where there is none; work is a function that runs on
a thread and gives one that runs on the event loop afterwards. Everything but the work itself runs on the event loop, so
there is no lock.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

from service.stages import note

P = ParamSpec("P")
T = TypeVar("T")

Afterwards = Callable[[], None]
Work = Callable[[], Afterwards]  # must not raise
Source = Callable[[], Work | None]


@dataclass(eq=False)
class Order:
    """A function that makes something, in the context of whoever wants it, and where that goes."""

    act: Callable[[], Any]
    reply: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    context: Any = field(default_factory=copy_context)
    since: float = field(default_factory=perf_counter)

    def begin(self) -> Any:
        """Make it, on a thread."""
        return self.context.run(self._noted)

    def settle(self, outcome: Any, failed: bool = False) -> None:
        """Answer whoever still waits, on the event loop."""
        if self.reply.done():
            return
        if failed:
            self.reply.set_exception(outcome)
        else:
            self.reply.set_result(outcome)

    def _noted(self) -> Any:
        note("queue", perf_counter() - self.since)
        return self.act()


class Crew:
    """`size` threads; `busy` of them are at work."""

    def __init__(self, size: int, name: str) -> None:
        self.size = size
        self.busy = 0
        self._calling: deque[Source] = deque()
        self._orders: deque[Order] = deque()
        self._executor = ThreadPoolExecutor(size, thread_name_prefix=name)

    def call(self, source: Source) -> None:
        """Ask a source for work, now and each time that its turn comes, until it has none."""
        if source not in self._calling:
            self._calling.append(source)
        self._assign()

    async def do(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking function when its turn comes. Cancelling the caller drops it if it has not begun."""
        order = Order(partial(act, *args, **kwargs))
        self._orders.append(order)
        self.call(self._next_order)
        found: T = await order.reply
        return found

    def close(self) -> None:
        """Stop the threads once they are done with what they hold."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _assign(self) -> None:
        while self.busy < self.size and self._calling:
            source = self._calling.popleft()
            if work := source():
                self._calling.append(source)
                self.busy += 1
                self._executor.submit(self._work, work, asyncio.get_running_loop())

    def _work(self, work: Work, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon_threadsafe(self._rest, work())

    def _rest(self, afterwards: Afterwards) -> None:
        self.busy -= 1
        afterwards()
        self._assign()

    def _next_order(self) -> Work | None:
        while self._orders:
            order = self._orders.popleft()
            if not order.reply.done():
                return partial(_carry_out, order)
        return None


def _carry_out(order: Order) -> Afterwards:
    try:
        return partial(order.settle, order.begin())
    except BaseException as error:  # it is for whoever waits, whatever it is
        return partial(order.settle, error, failed=True)
