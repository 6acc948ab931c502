"""The limit: Percept's decoding and graph in bare loops, without HTTP and without a response, in several settings.

`python -m benchmarks.harness.bare_loop BUNDLE SECONDS PROCESSES THREADS INTRA BATCH PHOTO...` prints one line of JSON.
"""

import json
import resource
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.harness.process_tree import resident_mb
from benchmarks.harness.report import percentile
from percept.imaging.decode import decode_reduced
from percept.imaging.preprocess import prepare
from percept.runtime.network import Network, TrunkInput

LOGITS = frozenset({"logits"})


@dataclass(frozen=True)
class Setting:
    """The number of processes, of threads in each, of threads within a run (`intra`), and of images in a run."""

    processes: int
    threads: int
    intra: int
    batch: int

    def __str__(self) -> str:
        return f"{self.processes} processes x {self.threads} threads x {self.intra} in a run, batches of {self.batch}"


def list_settings(cores: int) -> tuple[Setting, ...]:
    """All settings: a loop on every core in one process or several, or all cores in one run; batches of 1 and 8."""
    return (
        Setting(1, cores, 1, 1),
        Setting(cores, 1, 1, 1),
        Setting(1, 1, cores, 1),
        Setting(1, cores, 1, 8),
        Setting(1, 1, cores, 8),
    )


def run_loop(network: Network, photos: Iterator[bytes], batch: int, seconds: float) -> list[float]:
    """Loop for `seconds`; return the milliseconds of every run."""
    rule = network.manifest.preprocessing
    spent = []
    end = monotonic() + seconds
    while (start := monotonic()) < end:
        images = [decode_reduced(rule, next(photos), 10**8, 10**8) for _ in range(batch)]
        network.run_trunk([TrunkInput(prepare(*image, rule), LOGITS) for image in images])
        spent.append(1e3 * (monotonic() - start))
    return spent


def run_process(bundle: Path, photos: list[bytes], setting: Setting, seconds: float, ready: Barrier) -> dict[str, Any]:
    """Run one process: images per second, milliseconds of each run, CPU seconds, memory in MB."""
    network = Network(bundle, "cpu", setting.intra)
    run_loop(network, cycle(photos), setting.batch, 0.5)
    ready.wait()
    before, start = _cpu(), monotonic()
    with ThreadPoolExecutor(setting.threads) as pool:
        orders = [cycle(photos[k:] + photos[:k]) for k in range(setting.threads)]
        loops = pool.map(lambda order: run_loop(network, order, setting.batch, seconds), orders)
        spent = [ms for loop in loops for ms in loop]
    rate = len(spent) * setting.batch / (monotonic() - start)
    return {"rate": rate, "spent": spent, "cpu": _cpu() - before, "memory_mb": resident_mb([Path("/proc/self")])}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(bundle: Path, photos: list[bytes], setting: Setting, seconds: float) -> dict[str, float]:
    """Run all processes and add up their results."""
    context = get_context("spawn")
    with context.Manager() as manager, context.Pool(setting.processes) as pool:
        ready = manager.Barrier(setting.processes)
        found = pool.starmap(run_process, [(bundle, photos, setting, seconds, ready)] * setting.processes, chunksize=1)
    spent = [ms for result in found for ms in result["spent"]]
    return {
        "rate": sum(result["rate"] for result in found),
        "p50_ms": percentile(spent, 0.5),
        "p99_ms": percentile(spent, 0.99),
        "cpu_ms": 1e3 * sum(result["cpu"] for result in found) / (len(spent) * setting.batch),
        "memory_mb": sum(result["memory_mb"] for result in found),
    }


if __name__ == "__main__":
    bundle, seconds, *numbers = sys.argv[1:7]
    photos = [Path(file).read_bytes() for file in sys.argv[7:]]
    print(json.dumps(measure(Path(bundle), photos, Setting(*map(int, numbers)), float(seconds))))
