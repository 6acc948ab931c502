"""A server as a tree of processes: start it, find it in /proc, measure it, terminate all of it."""

import os
import signal
import socket
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

Process = subprocess.Popen[bytes]
END_TIMEOUT_S = 10.0
TICK = os.sysconf("SC_CLK_TCK")
STATE, PARENT, SESSION, TIMES = 0, 1, 3, slice(11, 15)  # fields of /proc/PID/stat after the name


@contextmanager
def start_process(command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> Iterator[Process]:
    """Start a process in a new session with its output in `log`; terminate its whole tree at the end."""
    with (
        log.open("wb") as out,
        subprocess.Popen(
            command, env={**os.environ, **environment}, cwd=folder, stdout=out, stderr=out, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            _end(process)


def find_tree(root: int) -> list[Path]:
    """The /proc folders of a process, its descendants and all other processes of its session."""
    stats = {int(path.name): _stat(path) for path in Path("/proc").glob("[0-9]*")}
    found = {pid for pid, stat in stats.items() if stat and (pid == root or int(stat[SESSION]) == root)}
    while more := {pid for pid, stat in stats.items() if stat and int(stat[PARENT]) in found} - found:
        found |= more
    return [Path("/proc") / str(pid) for pid in sorted(found)]


def cpu_seconds(root: int) -> float:
    """The CPU seconds of a tree so far, including children that have ended."""
    return sum(sum(map(int, stat[TIMES])) for path in find_tree(root) if (stat := _stat(path))) / TICK


def resident_mb(folders: Iterable[Path]) -> float:
    """The proportional set size of processes in MB: shared pages are counted once."""
    total = 0
    for folder in folders:
        try:
            lines = (folder / "smaps_rollup").read_text().splitlines()
        except OSError:  # the process has just ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def is_running(folder: Path) -> bool:
    """Whether a process runs; an ended one may remain as a zombie until its parent reaps it."""
    stat = _stat(folder)
    return stat is not None and stat[STATE] != "Z"


def free_port() -> int:
    """A free TCP port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _stat(folder: Path) -> list[str] | None:
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _end(process: Process) -> None:
    """Terminate the first process, then kill the rest of the tree."""
    own = set(find_tree(process.pid))
    process.send_signal(signal.SIGTERM)
    _wait({Path("/proc") / str(process.pid)})
    # Process ids are reused in rotation: an id of a tree that has just ended still belongs to no other process.
    own |= set(find_tree(process.pid))
    for folder in filter(is_running, own):
        try:
            os.kill(int(folder.name), signal.SIGKILL)
        except ProcessLookupError:
            continue
    _wait(own)


def _wait(folders: Collection[Path]) -> None:
    end = monotonic() + END_TIMEOUT_S
    while any(map(is_running, folders)) and monotonic() < end:
        sleep(0.02)
