"""The way of a request through the code: how many functions it enters, on which threads, in how many jobs.

A profiler records every call of a function of Percept while the application, in this process, answers one request for
a built-in model.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest
from fastapi.testclient import TestClient

import percept
from percept.api import disconnect
from percept.server.app import create_app
from percept.settings import Settings
from tests.photos import draw_marker, encode_photo

SERVICE = str(Path(percept.__file__).parent)
PHOTO = encode_photo(draw_marker((500, 375), (200, 200), 60), "JPEG")

MAX_FUNCTIONS = {"/predict": 60, "/cam": 100}  # that one request enters
MAX_THREAD_SWITCHES = 2  # from the event loop to a worker thread and back
PARTS_ABOVE_THE_PIPELINE = ("api/", "oip/", "server/")


class Call(NamedTuple):
    """One call of a function of Percept: its file below the package, its name and line, and the thread."""

    file: str
    function: str
    line: int
    thread: int


class Recording(list[Call]):
    """The calls that one request made, in order."""

    @property
    def functions(self) -> set[tuple[str, str, int]]:
        """The different functions; comprehensions and lambdas belong to the function around them."""
        return {call[:3] for call in self if not call.function.startswith("<")}

    @property
    def switches(self) -> int:
        """How often a call is made on another thread than the one before."""
        return sum(a.thread != b.thread for a, b in pairwise(self))

    @property
    def worker_files(self) -> set[str]:
        """The files of the functions that worker threads called."""
        workers = {call.thread for call in self if (call.file, call.function) == ("runtime/worker_pool.py", "_work")}
        return {call.file for call in self if call.thread in workers}

    def count(self, function: str) -> int:  # type: ignore[override]
        """How often a function of the worker pool was called."""
        return sum((call.file, call.function) == ("runtime/worker_pool.py", function) for call in self)


class Profiler:
    """Records the calls of Percept's functions, on all threads that were started after it."""

    def __init__(self) -> None:
        self.recording: Recording | None = None

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        recording, code = self.recording, frame.f_code
        if event == "call" and recording is not None and code.co_filename.startswith(SERVICE):
            file = Path(code.co_filename).relative_to(SERVICE).as_posix()
            recording.append(Call(file, code.co_name, code.co_firstlineno, threading.get_ident()))


@pytest.fixture(scope="module")
def record() -> Iterator[Callable[..., Recording]]:
    """A function that sends the photo to a path after three others, and returns what the last request called."""
    profiler = Profiler()
    threading.setprofile(profiler)  # for the threads of the client, and those that they start
    before = sys.getprofile()
    patch = pytest.MonkeyPatch()
    patch.setattr(disconnect, "POLL_INTERVAL_S", 60)  # a slow machine would poll for a disconnect meanwhile
    try:
        with TestClient(create_app(Settings(device="cpu"))) as client:
            for _ in range(200):
                if client.get("/health/ready").status_code == 200:
                    break
                time.sleep(0.05)

            def record(path: str) -> Recording:
                for _ in range(4):
                    profiler.recording = recording = Recording()
                    response = client.post(path, content=PHOTO)
                    assert response.status_code == 200, response.text
                    time.sleep(0.05)  # the worker thread has returned
                return recording

            yield record
    finally:
        patch.undo()
        threading.setprofile(before)


@pytest.mark.parametrize(("path", "limit"), MAX_FUNCTIONS.items())
def test_request_enters_few_functions(record: Callable[..., Recording], path: str, limit: int) -> None:
    functions = record(path).functions
    assert limit / 2 < len(functions) <= limit, "\n".join(map(str, sorted(functions)))


@pytest.mark.parametrize("path", ["/predict", "/cam", "/features?layer=stage2&view=grid", "/predict?model=clothing"])
def test_request_is_one_job_of_a_worker(record: Callable[..., Recording], path: str) -> None:
    recordings = [record(path) for _ in range(3)]
    assert [recording.count("wake") for recording in recordings] == [1, 1, 1]
    assert [recording.count("_work") for recording in recordings] == [1, 1, 1]
    # On a busy machine the event loop polls the client meanwhile.
    assert min(recording.switches for recording in recordings) <= MAX_THREAD_SWITCHES


@pytest.mark.parametrize(
    "path",
    [
        "/predict",
        "/predict?model=clothing&view=overlay",
        "/features?layer=stage2",
        "/features?layer=stage2&view=grid",
        "/cam",
        "/cam?format=json",
        "/cam?view=sheet&by=classes",
        "/cam?method=occlusion&format=npy",
    ],
)
def test_workers_call_nothing_of_the_api(record: Callable[..., Recording], path: str) -> None:
    files = record(path).worker_files
    assert {"pipeline.py", "runtime/network.py"} <= files
    assert [file for file in files if file.startswith(PARTS_ABOVE_THE_PIPELINE)] == []


def test_only_archives_are_made_by_the_api_on_a_worker(record: Callable[..., Recording]) -> None:
    """`percept.api.archive` puts several documents together, each of which another part has made."""
    files = record("/cam?format=zip").worker_files
    above = {file for file in files if file.startswith(PARTS_ABOVE_THE_PIPELINE)}
    assert "api/archive.py" in above
    assert {file for file in above if not file.startswith(("api/archive", "api/schemas/"))} == set()
