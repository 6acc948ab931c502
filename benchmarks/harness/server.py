"""Running servers, the load on them, and the bare loop as their baseline, each in a separate process.

This module prints nothing and compares nothing.
"""

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from benchmarks.harness.bare_loop import Setting
from benchmarks.harness.peer_servers import PERCEPT, ROOT
from benchmarks.harness.process_tree import cpu_seconds, free_port, start_process
from benchmarks.harness.report import ClosedLoopResult, parse_load
from benchmarks.harness.workspace import Workspace, photo_files
from percept.runtime.cpu_count import count_cpus
from percept.runtime.execution_plan import plan_execution
from percept.settings import Settings

READY_S, WARM_S, POLL_S = 60.0, 2.0, 0.01
SETTLE_S, POLL_IDLE_S, IDLE = 20.0, 0.25, 0.2  # wait at most 20 s until the server uses less than 0.2 of a core


class BenchmarkError(Exception):
    """The reason why a server cannot be measured."""


@dataclass(frozen=True)
class Server:
    """A running server: its process id, its address, and the seconds until its first response."""

    process: int
    address: str
    ready_s: float


@contextmanager
def start_server(
    command: Sequence[str], environment: Mapping[str, str], url: str, workspace: Workspace
) -> Iterator[Server]:
    """Run a server within a `with` block; raises `BenchmarkError` if `url` does not return 200 in time."""
    start = monotonic()
    with start_process(command, environment, workspace.scratch, workspace.log) as process:
        while not is_ready(url):
            if process.poll() is not None or monotonic() - start > READY_S:
                raise BenchmarkError(f"no answer after {monotonic() - start:.0f} s; {last_lines(workspace.log)}")
            sleep(POLL_S)
        yield Server(process.pid, url[: url.index("/", len("http://"))], monotonic() - start)


@contextmanager
def start_percept(models: Path, workspace: Workspace, device: str = "cpu") -> Iterator[Server]:
    """Run `percept serve` on a repository with default settings; yield it when it is ready."""
    port = str(free_port())
    variables = {"PERCEPT_MODELS": str(models), "PERCEPT_PORT": port, "PERCEPT_DEVICE": device, "PYTHONPATH": str(ROOT)}
    with start_server(PERCEPT, variables, f"http://127.0.0.1:{port}/health/ready", workspace) as server:
        yield server


def is_ready(url: str) -> bool:
    """Whether a URL returns 200."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:  # not listening yet, or not ready by its status
        return False


def last_lines(log: Path) -> str:
    """The last lines of a log in one line."""
    return " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:])[-400:]


def run_load(url: str, clients: int, seconds: float, content_type: str, files: Sequence[str]) -> ClosedLoopResult:
    """Run a closed loop in a separate process: each client sends its next request after the response."""
    if wrk := shutil.which("wrk"):
        duration = f"{max(round(seconds), 1)}s"
        script = str(ROOT / "benchmarks" / "harness" / "closed_loop.lua")
        command = [wrk, "-t", "1", "-c", str(clients), "-d", duration, "--timeout", "60s", "-s", script, url, "--"]
    else:
        command = [sys.executable, "-m", "benchmarks.harness.closed_loop", url, str(clients), str(seconds)]
    command += [content_type, *files]
    return parse_load(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def post_photos(
    server: Server, clients: int, seconds: float, workspace: Workspace, path: str = "/predict"
) -> ClosedLoopResult:
    """Post the photos to a path in a closed loop; raises `BenchmarkError` for errors or missing responses."""
    files = [str(path) for path in photo_files(workspace)]
    found = run_load(f"{server.address}{path}", clients, seconds, "image/jpeg", files)
    require_success(found, clients, seconds)
    return found


def require_success(found: ClosedLoopResult, clients: int, seconds: float) -> None:
    """Raise `BenchmarkError` if a load met errors or got no response."""
    if found.refused or found.lost or not found.answers:
        problem = f"{found.refused} of {found.answers} responses were errors, {found.lost} were lost"
        raise BenchmarkError(f"{clients} clients, {seconds:g} s: {problem}")


def wait_until_idle(process: int) -> None:
    """Wait until a server has finished the requests of earlier clients."""
    end = monotonic() + SETTLE_S
    while monotonic() < end:
        before = cpu_seconds(process)
        sleep(POLL_IDLE_S)
        if cpu_seconds(process) - before < IDLE * POLL_IDLE_S:
            return


def run_module(module: str, *arguments: object) -> Any:
    """Run a module of this folder in a separate process; return the JSON that it prints."""
    command = [sys.executable, "-m", f"benchmarks.harness.{module}", *map(str, arguments)]
    # Libraries of a device may print lines before the JSON.
    found = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(found.splitlines()[-1])


def measure_bare_loop(folder: Path, setting: Setting, seconds: float, workspace: Workspace) -> dict[str, float]:
    """Run `bare_loop` on a bundle."""
    found: dict[str, float] = run_module(
        "bare_loop",
        folder,
        seconds,
        setting.processes,
        setting.threads,
        setting.intra,
        setting.batch,
        *photo_files(workspace),
    )
    return found


def threads_per_run() -> int:
    """The number of threads that the service uses for one run of a network on the CPU."""
    return plan_execution(Settings(device="cpu"), count_cpus()).threads
