"""`python benchmarks/gpu.py`: compare `percept serve` on a CUDA device with bare sessions on it.

Each round runs the graph alone in batches of several sizes, then with photos decoded on all cores, then the service
under several loads. A ratio is to the best batch of the same round. Where CUDA does not work, one line states the
reason and the exit status is 1; `--device cpu` measures without a GPU. `docs/benchmarks.md` describes the method.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the package `benchmarks`

from benchmarks.harness.bare_batches import Measurement, gpu_mb
from benchmarks.harness.peer_servers import ROOT
from benchmarks.harness.process_tree import cpu_seconds, find_tree, resident_mb
from benchmarks.harness.report import format_median, format_table
from benchmarks.harness.server import WARM_S, post_photos, run_module, start_percept, wait_until_idle
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

BATCHES, CLIENTS = (1, 2, 4, 8, 16, 32), (1, 8, 32, 64)
HEADINGS = (
    *("network", "what", "images/s", "of the best batch: median (range)", "p50 ms", "p99 ms", "CPU ms/image"),
    *("memory MB", "GPU MB"),
)


@dataclass(frozen=True)
class Sample(Measurement):
    """One row in one round. Times are those of a run for bare sessions, of a response for the service.

    `ready` is true if the pixels were prepared before the run: ratios are to the best of these samples.
    """

    network: str
    what: str
    round: int
    ready: bool


def unavailable_reason(device: str) -> str:
    """The reason why a device does not work, or an empty string.

    The check runs in a separate process, which keeps the output of the device's libraries and their memory apart.
    """
    command = [sys.executable, "-c", f"from percept.runtime.session import resolve_device; resolve_device({device!r})"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode == 0:
        return ""
    return found.stderr.strip().splitlines()[-1].removeprefix("percept.errors.DeviceError: ")


def measure_sessions(
    network: str,
    turn: int,
    device: str,
    seconds: float,
    batches: Sequence[int],
    empty: float | None,
    workspace: Workspace,
) -> list[Sample]:
    """Measure the bare sessions."""
    sizes = ",".join(map(str, batches))
    found = run_module(
        "bare_batches", create_bundle(network, "float32", workspace), device, seconds, sizes, *photo_files(workspace)
    )
    samples = []
    for measurement in found:
        batch, workers = measurement.pop("batch"), measurement.pop("decoding")
        what = f"batches of {batch}" + (f", decoded by {count_cpus()} {workers}" if workers else "")
        fields = measurement | {"gpu_mb": subtract(measurement["gpu_mb"], empty)}
        samples.append(Sample(**fields, network=network, what=what, round=turn, ready=not workers))
    return samples


def measure_service(
    network: str,
    turn: int,
    device: str,
    seconds: float,
    clients: Sequence[int],
    empty: float | None,
    workspace: Workspace,
) -> list[Sample]:
    """Measure the service under every load."""
    samples = []
    with start_percept(create_repository(network, "float32", workspace), workspace, device) as server:
        # CUDA plans each batch size at its first run, and each load leads to other batch sizes.
        for many in clients:
            post_photos(server, many, WARM_S / 2, workspace)
        for many in clients:
            wait_until_idle(server.process)
            before = cpu_seconds(server.process)
            found = post_photos(server, many, seconds, workspace)
            used = 1e3 * (cpu_seconds(server.process) - before) / found.answers
            times = (found.rate, found.p50_ms, found.p99_ms, used, resident_mb(find_tree(server.process)))
            name = f"Percept, {many} client{'s' * (many > 1)}"
            samples.append(Sample(*times, subtract(gpu_mb(), empty), network, name, turn, False))
    return samples


def subtract(used: float | None, empty: float | None) -> float | None:
    """The memory in use on the GPU in MB, without what was in use before."""
    return None if used is None or empty is None else used - empty


def shares(samples: Sequence[Sample], group: Sequence[Sample]) -> list[float]:
    """The rate of each sample, divided by that of the best batch of prepared pixels in its round."""
    best: dict[tuple[str, int], float] = {}
    for s in samples:
        if s.ready:
            best[s.network, s.round] = max(s.rate, best.get((s.network, s.round), 0))
    return [s.rate / best[s.network, s.round] for s in group]


def row(samples: Sequence[Sample], group: Sequence[Sample]) -> list[str]:
    """Format one setting of a network over all rounds."""
    on_gpu = [s.gpu_mb for s in group if s.gpu_mb is not None]
    return [
        *(group[0].network, group[0].what),
        *(f"{median(s.rate for s in group):.1f}", format_median(shares(samples, group), 2)),
        *(f"{median(s.p50_ms for s in group):.2f}", f"{median(s.p99_ms for s in group):.2f}"),
        *(f"{median(s.cpu_ms for s in group):.2f}", f"{median(s.memory_mb for s in group):.0f}"),
        f"{median(on_gpu):.0f}" if on_gpu else "",
    ]


def table(samples: Sequence[Sample]) -> str:
    """Format all rows by network, in the order of their first measurement."""
    networks = list(dict.fromkeys(s.network for s in samples))
    keys = sorted(dict.fromkeys((s.network, s.what) for s in samples), key=lambda key: networks.index(key[0]))
    return format_table(HEADINGS, [row(samples, [s for s in samples if (s.network, s.what) == key]) for key in keys])


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the samples."""
    parser = create_parser(__doc__, ["squeezenet", "resnet50", "clothing"], rounds=3, seconds=3)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--clients", nargs="+", type=int, default=CLIENTS)
    options = parser.parse_args(given)
    if reason := unavailable_reason(options.device):
        sys.exit(f"gpu.py: {reason}")
    machine_info = describe_machine()
    samples: list[Sample] = []
    empty = gpu_mb()
    with open_workspace(options.photos) as workspace:
        for network in options.networks:
            for turn in range(options.rounds):
                samples += measure_sessions(
                    network, turn, options.device, options.seconds, options.batches, empty, workspace
                )
                samples += measure_service(
                    network, turn, options.device, options.seconds, options.clients, empty, workspace
                )
                print(f"{network}, round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
    print(table(samples))
    write_json(options.json, machine_info, device=options.device, samples=[asdict(s) for s in samples])


if __name__ == "__main__":
    main()
