"""Fixtures that every test may use: real bundles on disk, a real server on a real socket, the shared assets."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
import pytest

from tests.bundles import create_bundle

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@dataclass(frozen=True)
class Server:
    """A running `percept serve`."""

    process: subprocess.Popen[str]
    client: httpx.Client
    log: list[str]  # what it has written on stderr so far, by lines

    def memory_mb(self) -> float:
        """Resident memory of the process in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found
        return int(found[1]) / 1024

    def logged(self, what: str) -> str:
        """The first line of the log with these words, which may be on its way yet."""
        for _ in range(200):
            if found := next((line for line in tuple(self.log) if what in line), None):
                return found
            time.sleep(0.05)
        raise AssertionError(f"the log has no {what!r}:\n" + "".join(self.log))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of assets beside the checkout, or a skip that says so."""
    if not SHARED.is_dir():
        pytest.skip("no assets: ../shared is not beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of marker bundles: each task under each resize rule, and one without gradients."""
    root = tmp_path_factory.mktemp("repository")
    rules = {"squeeze": {}, "crop": {"short_side": 72}, "pad": {}}
    for rule, more in rules.items():
        for task in ("classification", "segmentation"):
            create_bundle(root, f"{task}-{rule}", task=task, height=64, width=48, resize=rule, **more)
    create_bundle(root, "no-gradients", tail=False)
    return root


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., Server]]:
    """Start servers: `start(models=…, PERCEPT_X=…)` returns one that is ready; all are stopped at the end."""
    servers: list[Server] = []

    def run(
        models: Path | None = None, wait: bool = True, python: str | Path = sys.executable, **environment: str
    ) -> Server:
        own = {"PERCEPT_PORT": "0", "PERCEPT_DEVICE": "cpu", **environment}
        own |= {"PERCEPT_MODELS": str(models)} if models else {}
        process = subprocess.Popen(
            [python, "-W", "error", "-m", "percept", "serve"],
            cwd=ROOT,
            env={**os.environ, **own},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        log: list[str] = []
        server = Server(process, httpx.Client(base_url=_address(process, log), timeout=60), log)
        servers.append(server)
        if wait:
            _wait(server)
        return server

    yield run
    for server in servers:
        server.client.close()
        server.process.terminate()
        server.process.wait(20)
        if server.process.stderr:
            server.process.stderr.close()


@pytest.fixture(scope="session")
def server(start: Callable[..., Server], bundles: Path) -> Server:
    """One server of the marker bundles for all tests that do not break it."""
    return start(bundles, PERCEPT_MAX_IMAGE_BYTES="3000000", PERCEPT_MAX_IMAGES="4")


@pytest.fixture(scope="session")
def client(server: Server) -> httpx.Client:
    """HTTP to `server`."""
    return server.client


def _address(process: subprocess.Popen[str], log: list[str]) -> str:
    assert process.stderr
    for line in process.stderr:
        log.append(line)
        if found := re.search(r"http://[\d.]+:\d+", line):
            threading.Thread(target=_keep, args=[process.stderr, log], daemon=True).start()
            return found[0]
    raise AssertionError("the server did not start:\n" + "".join(log))


def _keep(stream: IO[str], log: list[str]) -> None:
    """Go on reading, so that the server never blocks on a full pipe."""
    for line in stream:
        log.append(line)


def _wait(server: Server) -> None:
    for _ in range(200):
        if server.client.get("/health/ready").status_code == 200:
            return
        try:
            server.process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError("the server stopped while loading")
    raise AssertionError("the server was not ready after 20 s")
