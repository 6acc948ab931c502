"""An open-loop load generator: every request is sent when it is due, whether or not earlier ones were answered.

`python -m benchmarks.harness.open_loop URL RATE LEAD SECONDS CONTENT_TYPE FILE...` prints a line of JSON. Arrivals are
random, `RATE` per second on average; the first `LEAD` seconds are not counted. A connection carries one request at a
time; connections are reused and opened as needed, up to `MAX_CONNECTIONS`. A latency starts when its request was due,
so that it includes delays of the generator.
"""

import asyncio
import json
import random
import re
import resource
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle
from pathlib import Path
from time import process_time
from typing import cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.harness.report import percentile

MAX_CONNECTIONS, GRACE_S = 960, 30.0  # GRACE_S: the seconds to wait for the last answers
STALE_S = 4.0  # uvicorn closes idle connections after five seconds, possibly while a request is being sent
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")
AFTER, CLOSE = b"\r\nretry-after:", b"\r\nconnection: close"


@dataclass
class OpenLoopResult:
    """Requests by outcome; `retry_after` counts the refused requests with that header.

    `late_ms` is the 99th percentile of the delay with which the generator itself sent its requests.
    """

    seconds: float
    offered: int = 0
    good: int = 0
    refused: int = 0
    retry_after: int = 0
    other: int = 0
    lost: int = 0
    connections: int = 0
    late_ms: float = 0
    p50_ms: float = 0
    p99_ms: float = 0
    cpu_s: float = 0


class Connection(asyncio.Protocol):
    """A persistent connection with at most one request in flight."""

    def __init__(self, load: "OpenLoop") -> None:
        self.load = load
        self.due: float | None = None
        self.idle_since = 0.0
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport and register the connection."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass
        self.load.opened.add(self)

    def send(self, due: float) -> None:
        """Write the next request."""
        self.due = due
        self.transport.write(next(self.load.requests))

    def data_received(self, data: bytes) -> None:
        """Record a complete response and make the connection available again."""
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        head = self.received[:end].lower()
        if end < 0 or not (length := LENGTH.search(head)) or len(self.received) < end + 4 + int(length[1]):
            return
        due, self.due, self.received = self.due, None, b""
        if due is not None:
            self.load.record(due, int(head.split(b" ", 2)[1]), AFTER in head)
        if CLOSE in head:
            self.transport.close()
        else:
            self.idle_since = asyncio.get_running_loop().time()
            self.load.idle.append(self)

    def connection_lost(self, _error: Exception | None) -> None:
        """Remove the connection and count its request in flight as lost."""
        self.load.connections -= 1
        self.load.opened.discard(self)
        if self in self.load.idle:
            self.load.idle.remove(self)
        if self.due is not None:
            self.load.record_loss(self.due)


@dataclass
class OpenLoop:
    """The requests of one run; those between `begin` and `end` are counted."""

    host: str
    port: int
    requests: Iterator[bytes]
    begin: float
    end: float
    result: OpenLoopResult
    opened: set[Connection] = field(default_factory=set)
    idle: list[Connection] = field(default_factory=list)
    connections: int = 0
    waiting: int = 0
    spent: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)

    async def run(self, rate: float, start: float) -> None:
        """Send every request when it is due, then wait for the last responses."""
        loop = asyncio.get_running_loop()
        generator = random.Random(0)
        due, used = start, process_time()
        opening: set[asyncio.Task[None]] = set()
        while (due := due + generator.expovariate(rate)) < self.end:
            # A sleep of 0 also yields to the event loop: responses are read even when the generator is late.
            await asyncio.sleep(max(due - loop.time(), 0))
            if due < self.begin:
                used = process_time()
            else:
                self.result.offered += 1
                self.late.append(1e3 * (loop.time() - due))
            self.waiting += 1
            if self.idle and loop.time() - self.idle[-1].idle_since < STALE_S:
                self.idle.pop().send(due)
            elif self.connections < MAX_CONNECTIONS:
                task = loop.create_task(self.open(due))
                opening.add(task)
                task.add_done_callback(opening.discard)
            else:
                self.record_loss(due)
        await asyncio.sleep(max(self.end - loop.time(), 0))
        self.result.cpu_s = process_time() - used
        while self.waiting and loop.time() < self.end + GRACE_S:  # noqa: ASYNC110 (answers reset no event)
            await asyncio.sleep(0.02)
        self.result.lost += self.waiting
        for connection in list(self.opened):
            connection.due = None  # already counted
            connection.transport.abort()
        await asyncio.sleep(0)

    async def open(self, due: float) -> None:
        """Open a connection and send a request over it."""
        self.connections += 1
        self.result.connections = max(self.result.connections, self.connections)
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self), self.host, self.port
            )
        except OSError:
            self.connections -= 1
            self.record_loss(due)
        else:
            connection.send(due)

    def record(self, due: float, status: int, retry_after: bool) -> None:
        """Count a response by its arrival, and its latency by when the request was due."""
        self.waiting -= 1
        now = asyncio.get_running_loop().time()
        if status == 200 and self.begin <= due:
            self.spent.append(1e3 * (now - due))
        if not self.begin <= now < self.end:
            return
        self.result.good += status == 200
        self.result.refused += status == 429
        self.result.retry_after += status == 429 and retry_after
        self.result.other += status not in (200, 429)

    def record_loss(self, due: float) -> None:
        """Count a request without a response."""
        self.waiting -= 1
        self.result.lost += due >= self.begin


async def run_open_loop(
    url: str, rate: float, lead: float, seconds: float, content_type: str, files: list[str]
) -> OpenLoopResult:
    """Send `rate` requests per second; count their outcomes for `seconds` after `lead`."""
    parts = urlsplit(url)
    head = f"POST {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {content_type}\r\n"
    bodies = [Path(file).read_bytes() for file in files]
    requests = cycle([f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies])
    start = asyncio.get_running_loop().time()
    begin, end = start + lead, start + lead + seconds
    run = OpenLoop(parts.hostname or "", parts.port or 80, requests, begin, end, OpenLoopResult(seconds))
    await run.run(rate, start)
    late, (p50, p99) = percentile(run.late or [0], 0.99), (percentile(run.spent or [0], share) for share in (0.5, 0.99))
    return replace(run.result, late_ms=late, p50_ms=p50, p99_ms=p99)


if __name__ == "__main__":
    # Each connection needs a file descriptor; the default limit of many systems is 1024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    url, rate, lead, seconds, content_type, *files = sys.argv[1:]
    result = uvloop.run(run_open_loop(url, float(rate), float(lead), float(seconds), content_type, files))
    print(json.dumps(asdict(result)))
