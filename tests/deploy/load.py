"""Load on a server: threads that post photos without a pause, and the outcome of each request."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle

import httpx

Requests = Sequence[tuple[str, bytes]]  # path and body


@dataclass(frozen=True)
class Outcome:
    """The outcome of one request: a response, or a transport error.

    `at` is the Unix time at which it was sent. `tried` are the addresses of the replicas that the proxy tried, in
    order; the last one answered.
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
    """The outcomes of all clients so far, in the order of their end."""

    clients: int
    outcomes: list[Outcome] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def wait(self, count: int) -> None:
        """Wait until `count` more requests have ended."""
        end = len(self.outcomes) + count
        self._until(lambda: len(self.outcomes) >= end)

    def wait_for(self, replica: str) -> None:
        """Wait until a replica has answered a request that was sent after this call."""
        start, now = len(self.outcomes), time.time()
        self._until(lambda: any(each.replica == replica and each.at > now for each in self.outcomes[start:]))

    def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, f"too few requests were answered: {self.outcomes[-5:]}"
            time.sleep(0.01)

    def failures(self) -> list[Outcome]:
        return [each for each in self.outcomes if each.failed]


@contextmanager
def run_load(url: str, requests: Requests, clients: int, keep_alive: bool = True) -> Iterator[Load]:
    """Run clients that each post the requests in turn until the block ends.

    A client keeps its connection, or without `keep_alive` opens one for every request.
    """
    load = Load(clients)
    threads = [
        threading.Thread(target=_run_client, args=(load, url, requests, n, keep_alive), daemon=True)
        for n in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stopping.set()
        for thread in threads:
            thread.join(60)


def _run_client(load: Load, url: str, requests: Requests, first: int, keep_alive: bool) -> None:
    limits = httpx.Limits(max_keepalive_connections=int(keep_alive))
    with httpx.Client(base_url=url, timeout=60, limits=limits) as client:
        for n, (path, body) in enumerate(cycle(requests)):
            if load.stopping.is_set():
                return
            if n >= first % len(requests):
                load.outcomes.append(_post(client, path, body))


def _post(client: httpx.Client, path: str, body: bytes) -> Outcome:
    at = time.time()
    try:
        response = client.post(path, content=body, headers={"Content-Type": "image/jpeg", "Accept": "application/json"})
    except httpx.HTTPError as error:
        return Outcome(at, time.time() - at, path, error=f"{type(error).__name__}: {error}")
    tried = tuple(address.strip() for address in response.headers.get("x-upstream", "").split(",") if address.strip())
    version = response.json()["model"]["version"] if response.status_code == 200 else 0
    detail = "" if version else response.text[:200]
    return Outcome(at, time.time() - at, path, response.status_code, version, tried, detail)
