"""Worker threads that several sources of work share: the sources take turns.

A source is a function that returns its next piece of work, or None if it has none; it must return quickly. A worker
thread takes its next work itself: if the event loop assigned it, the thread would idle while the loop is busy. Results
are delivered on the event loop of the caller. The pool does not know what the work is.
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
from typing import Any, NamedTuple, ParamSpec, TypeVar

from percept.telemetry.context import record_stage

P = ParamSpec("P")
T = TypeVar("T")


class Outcome(NamedTuple):
    """The result of a job, or the exception that it raised."""

    job: "Job"
    value: Any
    failed: bool = False


@dataclass(eq=False)
class Job:
    """A function to call on a worker thread, in the context of its caller, and the future for its result."""

    function: Callable[[], Any]
    reply: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    context: Context = field(default_factory=copy_context)
    queued_at: float = field(default_factory=perf_counter)

    @property
    def abandoned(self) -> bool:
        """Whether the caller was cancelled, so that nothing waits for the result."""
        return self.reply.done()

    def run(self) -> Outcome:
        """Call the function on this thread."""
        return self.call(self._dequeue_and_call)

    def call(self, function: Callable[..., Any], *args: Any) -> Outcome:
        """Call another function for this job, in its context."""
        try:
            return Outcome(self, self.context.run(function, *args))
        except StopIteration as error:  # a future cannot hold it
            return Outcome(self, RuntimeError(f"a job raised {error!r}"), failed=True)
        except BaseException as error:  # the caller receives it, whatever it is
            return Outcome(self, error, failed=True)

    def record_wait(self) -> None:
        """Record the time since the job was queued; call it in the job's context."""
        record_stage("queue", self.queued_at, perf_counter())

    def _dequeue_and_call(self) -> Any:
        self.record_wait()
        return self.function()


Work = Callable[[], Sequence[Outcome]]  # must not raise
Source = Callable[[], Work | None]


class WorkerPool:
    """`size` worker threads, of which `busy` are working now."""

    def __init__(self, size: int, name: str) -> None:
        self.size = size
        self.busy = 0
        self._lock = Lock()
        self._sources: deque[Source] = deque()
        self._jobs: deque[Job] = deque()
        self._closed = False
        self._executor = ThreadPoolExecutor(size, thread_name_prefix=name)

    def wake(self, source: Source) -> None:
        """Take work from a source at each of its turns until it has none. May be called on any thread."""
        with self._lock:
            if source not in self._sources:
                self._sources.append(source)
            if self.busy == self.size or self._closed:
                return
            self.busy += 1
        self._executor.submit(self._work)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a blocking function on a worker thread; it is not called if the caller is cancelled before its turn."""
        job = Job(partial(function, *args, **kwargs))
        self._jobs.append(job)
        self.wake(self._next_job)
        result: T = await job.reply
        return result

    def close(self) -> None:
        """Stop the threads after their current work."""
        self._closed = True
        self._executor.shutdown(wait=False)

    def _work(self) -> None:
        """Work until no source has any work. The next work is taken before the last outcomes are delivered."""
        outcomes: Sequence[Outcome] = ()
        work: Work | None
        while True:
            with self._lock:
                work = None
                while work is None and self._sources and not self._closed:
                    source = self._sources.popleft()
                    if work := source():
                        self._sources.append(source)
                if work is None:
                    self.busy -= 1
            if outcomes:
                outcomes[0].job.reply.get_loop().call_soon_threadsafe(_deliver, outcomes)
            if work is None:
                return
            outcomes = work()

    def _next_job(self) -> Work | None:
        while self._jobs:
            job = self._jobs.popleft()
            if not job.abandoned:
                return lambda: [job.run()]
        return None


def _deliver(outcomes: Sequence[Outcome]) -> None:
    """Set the replies of jobs that are still wanted; runs on the event loop."""
    for job, value, failed in outcomes:
        if job.reply.done():  # the caller was cancelled
            continue
        if failed:
            job.reply.set_exception(value)
        else:
            job.reply.set_result(value)
