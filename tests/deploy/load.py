"""Clients that never rest: threads that post photos over kept connections, and what each request came to."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle

import httpx

Jobs = Sequence[tuple[str, bytes]]  # path and body


@dataclass(frozen=True)
class Seen:
    """What a client saw of one request: an answer, or an error instead.

    `tried` are the replicas that the proxy asked, in order; the last one answered.
    """

    at: float
    seconds: float
    path: str
    status: int = 0
    version: int = 0
    tried: tuple[str, ...] = ()
    error: str = ""

    @property
    def failed(self) -> bool:
        return self.status != 200

    @property
    def replica(self) -> str:
        return self.tried[-1] if self.tried else ""


@dataclass
class Load:
    """What all clients together have seen so far, in the order in which the answers came."""

    clients: int
    seen: list[Seen] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def wait(self, more: int) -> None:
        """Until so many more requests were answered."""
        end = len(self.seen) + more
        self._until(lambda: len(self.seen) >= end)

    def wait_for(self, replica: str) -> None:
        """Until a replica has answered a request that was sent from now on."""
        start, now = len(self.seen), time.time()
        self._until(lambda: any(one.replica == replica and one.at > now for one in self.seen[start:]))

    def _until(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not true():
            assert time.monotonic() < end, f"the clients were served too little: {self.seen[-5:]}"
            time.sleep(0.01)

    def failures(self) -> list[Seen]:
        return [one for one in self.seen if one.failed]


@contextmanager
def load(url: str, jobs: Jobs, clients: int, kept: int = 1) -> Iterator[Load]:
    """So many clients, each posting `jobs` in turn until the block ends.

    A client keeps one connection, or with `kept=0` makes one for every request.
    """
    found = Load(clients)
    threads = [threading.Thread(target=_work, args=(found, url, jobs, n, kept), daemon=True) for n in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        found.stopping.set()
        for thread in threads:
            thread.join(60)


def _work(found: Load, url: str, jobs: Jobs, first: int, kept: int) -> None:
    limits = httpx.Limits(max_keepalive_connections=kept)
    with httpx.Client(base_url=url, timeout=60, limits=limits) as client:
        for n, (path, body) in enumerate(cycle(jobs)):
            if found.stopping.is_set():
                return
            if n >= first % len(jobs):
                found.seen.append(_post(client, path, body))


def _post(client: httpx.Client, path: str, body: bytes) -> Seen:
    at = time.time()
    try:
        answer = client.post(path, content=body, headers={"Content-Type": "image/jpeg", "Accept": "application/json"})
    except httpx.HTTPError as error:
        return Seen(at, time.time() - at, path, error=f"{type(error).__name__}: {error}")
    tried = tuple(one.strip() for one in answer.headers.get("x-upstream", "").split(",") if one.strip())
    version = answer.json()["model"]["version"] if answer.status_code == 200 else 0
    return Seen(at, time.time() - at, path, answer.status_code, version, tried, "" if version else answer.text[:200])
