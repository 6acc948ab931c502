"""`python benchmarks/http_overhead.py`: measure the CPU time that HTTP adds to a prediction.

Each round compares the CPU time per image of `percept serve` under load with that of a bare loop over the same photo of
about 50 KB (decoding, resizing and inference on the same number of threads). The difference must be less than 1 ms. The
table also shows the floor, an application that only reads the photo. The exit status is 1 if the bar is missed.
`docs/benchmarks.md` describes the method.
"""

import io
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the package `benchmarks`

from benchmarks.harness.bare_loop import Setting
from benchmarks.harness.peer_servers import ROOT
from benchmarks.harness.process_tree import cpu_seconds, free_port
from benchmarks.harness.report import format_median, format_table
from benchmarks.harness.server import (
    Server,
    measure_bare_loop,
    post_photos,
    start_percept,
    start_server,
    threads_per_run,
    wait_until_idle,
)
from benchmarks.harness.workspace import (
    Workspace,
    create_bundle,
    create_parser,
    create_repository,
    describe_machine,
    open_workspace,
    photo_files,
    write_json,
)
from percept.runtime.cpu_count import count_cpus

BYTES, BAR_MS, WARM_S = 50_000, 1.0, 1.0
FLOOR = (sys.executable, "-m", "uvicorn", "benchmarks.harness.minimal_app:app", "--port")
HEADINGS = (
    *("network", "clients", "served ms", "bare ms", "difference ms: median (range)", "floor ms: median (range)"),
    *("bar", "met"),
)


@dataclass(frozen=True)
class Sample:
    """CPU milliseconds per image in one round: the service, the bare loop, the floor."""

    network: str
    clients: int
    round: int
    served_ms: float
    bare_ms: float
    floor_ms: float

    @property
    def difference_ms(self) -> float:
        """The CPU time that is not decoding, resizing or inference."""
        return self.served_ms - self.bare_ms


def recompress(data: bytes) -> bytes:
    """Encode a photo with the quality that brings its size closest to `BYTES`."""
    image = Image.open(io.BytesIO(data)).convert("RGB")

    def encoded(quality: int) -> bytes:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return stream.getvalue()

    return min(map(encoded, range(20, 100)), key=lambda found: abs(len(found) - BYTES))


def single_photo_workspace(workspace: Workspace) -> Workspace:
    """The same workspace with one photo of about `BYTES`."""
    folder = workspace.scratch / "single-photo"
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(recompress(photo_files(workspace)[0].read_bytes()))
    return replace(workspace, photos=folder)


def cpu_ms_per_answer(server: Server, clients: int, seconds: float, workspace: Workspace) -> float:
    """CPU milliseconds per answer of a server under load."""
    wait_until_idle(server.process)
    before = cpu_seconds(server.process)
    found = post_photos(server, clients, seconds, workspace)
    return 1e3 * (cpu_seconds(server.process) - before) / found.answers


def measure_loads(server: Server, clients: Sequence[int], seconds: float, workspace: Workspace) -> list[float]:
    """CPU milliseconds per answer under each load, after a warm-up."""
    post_photos(server, count_cpus(), WARM_S, workspace)
    return [cpu_ms_per_answer(server, many, seconds, workspace) for many in clients]


def measure(network: str, clients: Sequence[int], turn: int, seconds: float, workspace: Workspace) -> list[Sample]:
    """Measure one round with new processes: the memory pages of its weights make a process faster or slower."""
    folder, url = create_bundle(network, "float32", workspace), f"http://127.0.0.1:{(port := free_port())}/"
    with start_percept(create_repository(network, "float32", workspace), workspace) as server:
        served = measure_loads(server, clients, seconds, workspace)
    # One client keeps one loop busy, several clients keep all loops busy.
    settings = [Setting(1, min(many, count_cpus()), threads_per_run(), 1) for many in clients]
    loops = [measure_bare_loop(folder, setting, seconds, workspace)["cpu_ms"] for setting in settings]
    with start_server((*FLOOR, str(port)), {"PYTHONPATH": str(ROOT)}, url, workspace) as server:
        floors = measure_loads(server, clients, seconds, workspace)
    print(f"{network}, round {turn + 1}", file=sys.stderr, flush=True)
    rows = zip(clients, served, loops, floors, strict=True)
    return [Sample(network, many, turn, *times) for many, *times in rows]


def met(group: Sequence[Sample]) -> bool:
    """Whether the median is below the bar."""
    return median(s.difference_ms for s in group) < BAR_MS


def row(group: Sequence[Sample]) -> list[str]:
    """Format one load of a network over all rounds."""
    return [
        *(group[0].network, str(group[0].clients)),
        *(f"{median(s.served_ms for s in group):.2f}", f"{median(s.bare_ms for s in group):.2f}"),
        *(format_median([s.difference_ms for s in group], 2), format_median([s.floor_ms for s in group], 2)),
        *(f"below {BAR_MS:g}", "yes" if met(group) else "NO"),
    ]


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the samples."""
    parser = create_parser(__doc__, ["squeezenet"], rounds=5, seconds=5)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8])
    options = parser.parse_args(given)
    machine_info = describe_machine()
    samples: list[Sample] = []
    with open_workspace(options.photos) as base:
        workspace = single_photo_workspace(base)
        size = len(photo_files(workspace)[0].read_bytes())
        for network in options.networks:
            for turn in range(options.rounds):
                samples += measure(network, options.clients, turn, options.seconds, workspace)
    keys = dict.fromkeys((s.network, s.clients) for s in samples)
    groups = [[s for s in samples if (s.network, s.clients) == key] for key in keys]
    print(format_table(HEADINGS, map(row, groups)))
    print(f"\nThe photo has {size} bytes.")
    write_json(options.json, machine_info, bytes=size, samples=[asdict(s) for s in samples])
    sys.exit(not all(map(met, groups)))


if __name__ == "__main__":
    main()
