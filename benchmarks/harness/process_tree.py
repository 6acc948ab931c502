"""A server as a tree of processes: started, found in /proc, measured, and ended whole."""

import os
import signal
import socket
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

Process = subprocess.Popen[bytes]
PATIENCE_S = 10.0
TICK = os.sysconf("SC_CLK_TCK")
STATE, PARENT, SESSION, TIMES = 0, 1, 3, slice(11, 15)  # fields of /proc/PID/stat after the name


@contextmanager
def start_process(command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> Iterator[Process]:
    """A process in a session of its own, everything it says in `log`. At the end nothing of it is left."""
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
    """The /proc folders of a process, of all its descendants, and of who else is in its session."""
    stats = {int(path.name): _stat(path) for path in Path("/proc").glob("[0-9]*")}
    found = {pid for pid, stat in stats.items() if stat and (pid == root or int(stat[SESSION]) == root)}
    while more := {pid for pid, stat in stats.items() if stat and int(stat[PARENT]) in found} - found:
        found |= more
    return [Path("/proc") / str(pid) for pid in sorted(found)]


def cpu_seconds(root: int) -> float:
    """The CPU seconds of a tree so far, those of children that ended included."""
    return sum(sum(map(int, stat[TIMES])) for path in find_tree(root) if (stat := _stat(path))) / TICK


def resident_mb(folders: Iterable[Path]) -> float:
    """The proportional resident memory of processes in MB: a page that several share is counted once."""
    total = 0
    for folder in folders:
        try:
            lines = (folder / "smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def is_running(folder: Path) -> bool:
    """Whether a process has not ended; one that has may still wait for its parent to notice."""
    stat = _stat(folder)
    return stat is not None and stat[STATE] != "Z"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _stat(folder: Path) -> list[str] | None:
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _end(process: Process) -> None:
    """Ask the first process to end, then end what is left of the tree."""
    own = set(find_tree(process.pid))
    process.send_signal(signal.SIGTERM)
    _wait({Path("/proc") / str(process.pid)})
    # An id is used again only after all others: one of a tree that has just ended is nobody else's yet.
    own |= set(find_tree(process.pid))
    for folder in filter(is_running, own):
        try:
            os.kill(int(folder.name), signal.SIGKILL)
        except ProcessLookupError:
            continue
    _wait(own)


def _wait(folders: Collection[Path]) -> None:
    end = monotonic() + PATIENCE_S
    while any(map(is_running, folders)) and monotonic() < end:
        sleep(0.02)
