"""`python benchmarks/startup.py`: measure the startup time and the memory of `percept serve`.

Both are compared with a bare process that only loads the same graphs with the same options. The service must be ready
within 1.5 times the time of the bare process plus half a second, and use at most 150 MB more, idle and after 200
predictions. The exit status is 1 if a bar is missed. `docs/benchmarks.md` describes the method.
"""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import monotonic, sleep

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the package `benchmarks`

from benchmarks.harness.peer_servers import ROOT
from benchmarks.harness.process_tree import resident_mb
from benchmarks.harness.report import format_median, format_table
from benchmarks.harness.server import start_percept, threads_per_run
from benchmarks.harness.workspace import (
    NETWORKS,
    Workspace,
    create_parser,
    create_repository,
    describe_machine,
    open_workspace,
    photo_files,
    write_json,
)
from percept.runtime.cpu_count import count_cpus
from percept.settings import BUILT_IN_BUNDLES

BUILT = "built-in"
PREDICTIONS, IDLE_S = 200, 1.0
MAX_FACTOR, MAX_EXTRA_S, MAX_EXTRA_MB = 1.5, 0.5, 150.0  # the bars
HEADINGS = (
    *("repository", "ready s: median (range)", "bare s", "allowed s", "met", "memory", "served MB", "bare MB"),
    *("difference MB: median (range)", "allowed MB", "met"),
)


@dataclass(frozen=True)
class Measurement:
    """Seconds until ready; memory in MB when ready and after the predictions."""

    ready_s: float
    idle_mb: float
    used_mb: float


@dataclass(frozen=True)
class Sample:
    """One round of one repository."""

    repository: str
    round: int
    served: Measurement
    bare: Measurement

    @property
    def allowed_s(self) -> float:
        """The seconds that the startup of the service may take in this round."""
        return MAX_FACTOR * self.bare.ready_s + MAX_EXTRA_S


def find_repository(name: str, workspace: Workspace) -> Path:
    """The folder of the built-in bundles, or a repository with one network."""
    return BUILT_IN_BUNDLES if name == BUILT else create_repository(name, "float32", workspace)


def list_graphs(models: Path) -> list[Path]:
    """The graphs that the service loads at startup: the trunk of every bundle and the tail of its CAM layer."""
    files = []
    for file in sorted(models.glob("[!.]*/*/manifest.json")):
        manifest = json.loads(file.read_text())
        tails = [layer.get("tail") for layer in manifest["layers"] if layer["name"] == manifest.get("cam_layer")]
        files += [file.parent / manifest.get("trunk", "trunk.onnx")]
        files += [file.parent / tail["file"] for tail in tails if tail]
    return files


def measure_service(models: Path, workspace: Workspace) -> Measurement:
    """Measure the service on a repository."""
    names = sorted({file.parent.parent.name for file in models.glob("[!.]*/*/manifest.json")})
    photos = [path.read_bytes() for path in photo_files(workspace)]

    def post(turn: int) -> None:
        url = f"{server.address}/predict?model={names[turn % len(names)]}"
        request = urllib.request.Request(url, photos[turn % len(photos)], {"Content-Type": "image/jpeg"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()

    with start_percept(models, workspace) as server, ThreadPoolExecutor(count_cpus()) as pool:
        idle = idle_memory(server.process)
        list(pool.map(post, range(PREDICTIONS)))
        return Measurement(server.ready_s, idle, idle_memory(server.process))


def measure_sessions(models: Path) -> Measurement:
    """Measure a process that only loads the same graphs."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.harness.bare_sessions",
        str(threads_per_run()),
        str(count_cpus()),
        *map(str, list_graphs(models)),
    ]
    start = monotonic()
    with start_sessions(command) as (process, lines):
        next(lines)
        ready, idle = monotonic() - start, idle_memory(process.pid)
        assert process.stdin
        process.stdin.write(f"{PREDICTIONS}\n")
        process.stdin.flush()
        next(lines)
        return Measurement(ready, idle, idle_memory(process.pid))


def idle_memory(process: int) -> float:
    """The memory of an idle process in MB."""
    sleep(IDLE_S)
    return resident_mb([Path("/proc") / str(process)])


def measure(name: str, rounds: int, workspace: Workspace) -> list[Sample]:
    """Measure service and bare process in every round; an extra first round fills the page cache and is not counted."""
    models, samples = find_repository(name, workspace), []
    for turn in range(-1, rounds):
        sample = Sample(name, turn, measure_service(models, workspace), measure_sessions(models))
        samples += [sample] if turn >= 0 else []
        print(f"{name}, round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    return samples


def met(group: Sequence[Sample]) -> tuple[bool, bool, bool]:
    """Whether the medians meet the bars: startup, idle memory, memory after the predictions."""
    return (
        median(s.served.ready_s - s.allowed_s for s in group) <= 0,
        median(s.served.idle_mb - s.bare.idle_mb for s in group) <= MAX_EXTRA_MB,
        median(s.served.used_mb - s.bare.used_mb for s in group) <= MAX_EXTRA_MB,
    )


def rows(group: Sequence[Sample]) -> Iterator[list[str]]:
    """Format two rows: startup and idle memory of a repository, then the memory after the predictions."""
    word = {True: "yes", False: "NO"}
    start, idle, used = met(group)

    def memory_cells(what: str, field: str, good: bool) -> list[str]:
        served, bare = [getattr(s.served, field) for s in group], [getattr(s.bare, field) for s in group]
        difference = format_median([a - b for a, b in zip(served, bare, strict=True)], 0)
        return [what, f"{median(served):.0f}", f"{median(bare):.0f}", difference, f"{MAX_EXTRA_MB:.0f}", word[good]]

    bare_s, allowed_s = median(s.bare.ready_s for s in group), median(s.allowed_s for s in group)
    ready = [format_median([s.served.ready_s for s in group], 2), f"{bare_s:.2f}", f"{allowed_s:.2f}", word[start]]
    repository = group[0].repository
    yield [repository, *ready, *memory_cells("idle", "idle_mb", idle)]
    yield [repository, "", "", "", "", *memory_cells(f"after {PREDICTIONS} predictions", "used_mb", used)]


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the samples."""
    parser = create_parser(__doc__, [BUILT, "squeezenet", "resnet50"], rounds=5, choices=[BUILT, *NETWORKS])
    options = parser.parse_args(given)
    machine_info = describe_machine()
    with open_workspace(options.photos) as workspace:
        groups = [measure(name, options.rounds, workspace) for name in options.networks]
    print(format_table(HEADINGS, [line for group in groups for line in rows(group)]))
    write_json(options.json, machine_info, samples=[asdict(s) for group in groups for s in group])
    sys.exit(not all(all(met(group)) for group in groups))


@contextmanager
def start_sessions(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """Start a process; yield it and the lines that it prints."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout
            yield process, iter(process.stdout)
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
