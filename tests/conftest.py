"""Fixtures for every test: real bundles on disk, real servers on real sockets, and the shared assets."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from hypothesis import settings

from tests.bundles import create_bundle

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

# Shared machines pause for longer than any deadline of an example. CI tries the same examples in every run.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@dataclass(frozen=True)
class Server:
    """A running `percept serve`, and an HTTP client for it."""

    process: subprocess.Popen[str]
    client: httpx.Client
    log: list[str]  # the lines on stderr so far

    def memory_mb(self) -> float:
        """Return the resident memory of the process in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found
        return int(found[1]) / 1024

    def wait_for_log(self, text: str) -> str:
        """Return the first log line that contains `text`; waits up to 10 s for it."""
        for _ in range(200):
            if line := next((line for line in tuple(self.log) if text in line), None):
                return line
            time.sleep(0.05)
        raise AssertionError(f"the log does not contain {text!r}:\n" + "".join(self.log))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of assets beside the checkout; skips the test where it is missing."""
    if not SHARED.is_dir():
        pytest.skip("no assets: the folder ../shared does not exist beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of marker bundles: each task with each resize rule, and one bundle without gradients."""
    root = tmp_path_factory.mktemp("repository")
    resize_rules: dict[str, dict[str, Any]] = {
        "squeeze": {"resize": "squeeze"},
        "crop": {"resize": "crop", "short_side": 72},
        "pad": {"resize": "pad"},
        "resized": {"resize": "crop", "resize_size": (72, 72)},  # as a whole, in whole pixels, then cropped
    }
    for rule, options in resize_rules.items():
        for task in ("classification", "segmentation"):
            create_bundle(root, f"{task}-{rule}", task=task, height=64, width=48, **options)
    create_bundle(root, "no-gradients", tail=False)
    return root


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., Server]]:
    """A function that starts a server: `start(models, PERCEPT_X=...)` returns it once it is ready.

    With `wait=False` it returns as soon as the server listens. All servers are stopped at the end of the session.
    """
    servers: list[Server] = []

    def start_server(models: Path | None = None, wait: bool = True, **environment: str) -> Server:
        variables = {"PERCEPT_PORT": "0", "PERCEPT_DEVICE": "cpu", **environment}
        variables |= {"PERCEPT_MODELS": str(models)} if models else {}
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "percept", "serve"],
            cwd=ROOT,
            env={**os.environ, **variables},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        log: list[str] = []
        server = Server(process, httpx.Client(base_url=_read_address(process, log), timeout=60), log)
        servers.append(server)
        if wait:
            _wait_ready(server)
        return server

    yield start_server
    for server in servers:
        server.client.close()
        server.process.terminate()
        server.process.wait(20)
        if server.process.stderr:
            server.process.stderr.close()


@pytest.fixture(scope="session")
def server(start: Callable[..., Server], bundles: Path) -> Server:
    """A server of the marker bundles, shared by all tests that leave it running and unchanged."""
    return start(bundles, PERCEPT_MAX_IMAGE_BYTES="3000000", PERCEPT_MAX_IMAGES="4")


@pytest.fixture(scope="session")
def client(server: Server) -> httpx.Client:
    """The HTTP client of `server`."""
    return server.client


def _read_address(process: subprocess.Popen[str], log: list[str]) -> str:
    """Return the address that the server logs when it listens, and go on collecting its log in a thread."""
    assert process.stderr
    for line in process.stderr:
        log.append(line)
        if found := re.search(r"http://[\d.]+:\d+", line):
            threading.Thread(target=_collect_lines, args=[process.stderr, log], daemon=True).start()
            return found[0]
    raise AssertionError("the server did not start:\n" + "".join(log))


def _collect_lines(stream: IO[str], log: list[str]) -> None:
    """Read all lines: the server would block on a full pipe."""
    for line in stream:
        log.append(line)


def _wait_ready(server: Server) -> None:
    for _ in range(200):
        if server.client.get("/health/ready").status_code == 200:
            return
        try:
            server.process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError("the server stopped while loading")
    raise AssertionError("the server was not ready after 20 s")
