"""`python benchmarks/http_overhead.py`: what HTTP costs a prediction, in CPU time of the process.

In each round the CPU time per image of `percept serve` under load is compared with that of a bare loop over the same
photo of about 50 KB: decoding, resizing and inference on as many threads. The rest must be less than 1 ms. Beside it
stands the floor, an application that only reads the photo. Exits with 1 where the bar is missed. How it is measured
stands in `docs/benchmarks.md`.
"""

import io
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the modules beside this one

from benchmarks.harness import workspace
from benchmarks.harness.bare_loop import Setting
from benchmarks.harness.peer_servers import ROOT
from benchmarks.harness.process_tree import cpu, free_port
from benchmarks.harness.report import markdown, spread
from benchmarks.harness.server import Server, answering, asked, bare, inner, running, settle
from benchmarks.harness.workspace import Place, bundle, pictures, repository
from percept.runtime.cpu_count import count_cpus

BYTES, BAR_MS, WARM_S = 50_000, 1.0, 1.0
FLOOR = (sys.executable, "-m", "uvicorn", "benchmarks.harness.minimal_app:app", "--port")
HEADINGS = (
    *("network", "clients", "served ms", "bare ms", "difference ms: median (range)", "floor ms: median (range)"),
    *("bar", "met"),
)


@dataclass(frozen=True)
class Sample:
    """CPU milliseconds per image in one round: of the service, of the bare loop, of the floor."""

    network: str
    clients: int
    round: int
    served_ms: float
    bare_ms: float
    floor_ms: float

    @property
    def difference_ms(self) -> float:
        """What is neither decoding nor resizing nor inference."""
        return self.served_ms - self.bare_ms


def shrunk(data: bytes) -> bytes:
    """A photo encoded anew, with the quality that comes nearest to the size wanted."""
    image = Image.open(io.BytesIO(data)).convert("RGB")

    def encoded(quality: int) -> bytes:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return stream.getvalue()

    return min(map(encoded, range(20, 100)), key=lambda found: abs(len(found) - BYTES))


def alone(where: Place) -> Place:
    """The same place with one photo of about the size wanted."""
    folder = where.scratch / "alone"
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(shrunk(pictures(where)[0].read_bytes()))
    return replace(where, photos=folder)


def spent(server: Server, clients: int, seconds: float, where: Place) -> float:
    """CPU milliseconds per answer of a server under load."""
    settle(server.process)
    before = cpu(server.process)
    found = asked(server, clients, seconds, where)
    return 1e3 * (cpu(server.process) - before) / found.answers


def loaded(server: Server, clients: Sequence[int], seconds: float, where: Place) -> list[float]:
    """`spent` under each load, once the server is warm."""
    asked(server, count_cpus(), WARM_S, where)
    return [spent(server, many, seconds, where) for many in clients]


def measure(network: str, clients: Sequence[int], turn: int, seconds: float, where: Place) -> list[Sample]:
    """One round: every process starts anew, since where its weights come to lie makes it faster or slower."""
    folder, url = bundle(network, "float32", where), f"http://127.0.0.1:{(port := free_port())}/"
    with running(repository(network, "float32", where), where) as server:
        served = loaded(server, clients, seconds, where)
    # One client keeps one loop busy, several keep all of them.
    hows = [Setting(1, min(many, count_cpus()), inner(), 1) for many in clients]
    loops = [bare(folder, how, seconds, where)["cpu_ms"] for how in hows]
    with answering((*FLOOR, str(port)), {"PYTHONPATH": str(ROOT)}, url, where) as server:
        floors = loaded(server, clients, seconds, where)
    print(f"{network}, round {turn + 1}", file=sys.stderr, flush=True)
    rows = zip(clients, served, loops, floors, strict=True)
    return [Sample(network, many, turn, *times) for many, *times in rows]


def met(own: Sequence[Sample]) -> bool:
    """Whether the median is below the bar."""
    return median(s.difference_ms for s in own) < BAR_MS


def row(own: Sequence[Sample]) -> list[str]:
    """One load on a network in all rounds."""
    return [
        *(own[0].network, str(own[0].clients)),
        *(f"{median(s.served_ms for s in own):.2f}", f"{median(s.bare_ms for s in own):.2f}"),
        *(spread([s.difference_ms for s in own], 2), spread([s.floor_ms for s in own], 2)),
        *(f"below {BAR_MS:g}", "yes" if met(own) else "NO"),
    ]


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the file."""
    words = workspace.parser(__doc__, ["squeezenet"], rounds=5, seconds=5)
    words.add_argument("--clients", nargs="+", type=int, default=[1, 8])
    said = words.parse_args(given)
    begun = workspace.machine()
    samples: list[Sample] = []
    with workspace.place(said.photos) as anywhere:
        where = alone(anywhere)
        size = len(pictures(where)[0].read_bytes())
        for network in said.networks:
            for turn in range(said.rounds):
                samples += measure(network, said.clients, turn, said.seconds, where)
    keys = dict.fromkeys((s.network, s.clients) for s in samples)
    groups = [[s for s in samples if (s.network, s.clients) == key] for key in keys]
    print(markdown(HEADINGS, map(row, groups)))
    print(f"\nThe photo has {size} bytes.")
    workspace.keep(said.json, begun, bytes=size, samples=[asdict(s) for s in samples])
    sys.exit(not all(map(met, groups)))


if __name__ == "__main__":
    main()
