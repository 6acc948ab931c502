"""The baseline of `gpu.py`: a graph alone on a device, without HTTP, in several batch sizes; then with decoding.

`python -m benchmarks.harness.bare_batches BUNDLE DEVICE SECONDS BATCHES PHOTO...` (batches as `1,2,4`) prints a JSON
list. The pixels are ready in host memory, as in the service: copying them to the device is part of a run. The last two
measurements decode photos ahead of the runs, with threads and then with processes on all cores, in the best batch size.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from time import monotonic
from typing import Literal, cast

import numpy as np

from benchmarks.harness.process_tree import cpu_seconds, find_tree, resident_mb
from benchmarks.harness.report import percentile
from percept.bundle.integrity import read_manifest
from percept.bundle.preprocessing import Preprocessing
from percept.imaging.decode import decode_reduced
from percept.imaging.geometry import Pixels
from percept.imaging.preprocess import prepare
from percept.runtime.cpu_count import count_cpus
from percept.runtime.session import Device, Session, resolve_device

WARM_S = 0.5


@dataclass(frozen=True)
class Measurement:
    """Images per second, milliseconds of a run, CPU milliseconds per image, memory in MB."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    memory_mb: float
    gpu_mb: float | None


@dataclass(frozen=True)
class BareMeasurement(Measurement):
    """One setting of the graph alone; `decoding` names the workers that decode photos, if any."""

    batch: int
    decoding: Literal["", "threads", "processes"]


def gpu_mb() -> float | None:
    """The memory in use on all GPUs in MB, or None without `nvidia-smi`."""
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return sum(map(float, found.stdout.split())) if found.returncode == 0 else None


def measure_runs(
    run: Callable[[], object], batch: int, decoding: Literal["", "threads", "processes"], seconds: float
) -> BareMeasurement:
    """Repeat a run for `seconds` after a warm-up."""
    warm_until = monotonic() + WARM_S
    run()
    while monotonic() < warm_until:
        run()
    cpu_before, begin, spent = cpu_seconds(os.getpid()), monotonic(), []
    while (start := monotonic()) < begin + seconds:
        run()
        spent.append(1e3 * (monotonic() - start))
    images, duration = batch * len(spent), monotonic() - begin
    cpu_ms = 1e3 * (cpu_seconds(os.getpid()) - cpu_before) / images
    times = (percentile(spent, 0.5), percentile(spent, 0.99), cpu_ms)
    return BareMeasurement(images / duration, *times, resident_mb(find_tree(os.getpid())), gpu_mb(), batch, decoding)


def prepare_batch(rule: Preprocessing, photos: list[bytes]) -> Pixels:
    """Decode and prepare photos: uint8 [N,H,W,3]."""
    return np.stack([prepare(*decode_reduced(rule, data, 10**8, 10**8), rule) for data in photos])


def decode_and_run(
    session: Session, rule: Preprocessing, photos: list[bytes], batch: int, pool: Executor
) -> Callable[[], object]:
    """A run over photos that a pool decodes ahead, with enough batches in flight to keep all cores busy."""
    endless = cycle(photos)

    def submit_batch() -> Future[Pixels]:
        return pool.submit(prepare_batch, rule, list(islice(endless, batch)))

    pending = deque(submit_batch() for _ in range(2 * count_cpus()))

    def run() -> object:
        pending.append(submit_batch())
        return session.run({"pixels": pending.popleft().result()}, ["logits"])

    return run


def measure(
    folder: Path, device: Device, seconds: float, batches: list[int], photos: list[bytes]
) -> list[BareMeasurement]:
    """Measure every batch size, then the best one with decoding."""
    manifest = read_manifest(folder)
    rule = manifest.preprocessing
    session = Session(folder / manifest.trunk, device, count_cpus() if device == "cpu" else 1)
    found = []
    for batch in batches:
        ready = prepare_batch(rule, list(islice(cycle(photos), batch)))
        found.append(measure_runs(partial(session.run, {"pixels": ready}, ["logits"]), batch, "", seconds))
    best = max(found, key=lambda measurement: measurement.rate).batch
    with ThreadPoolExecutor(count_cpus()) as pool:
        found.append(measure_runs(decode_and_run(session, rule, photos, best, pool), best, "threads", seconds))
        pool.shutdown(cancel_futures=True)
    # A process that holds a CUDA context cannot be forked.
    with ProcessPoolExecutor(count_cpus(), mp_context=get_context("spawn")) as pool:
        found.append(measure_runs(decode_and_run(session, rule, photos, best, pool), best, "processes", seconds))
        pool.shutdown(cancel_futures=True)
    return found


if __name__ == "__main__":
    bundle, device_setting, seconds, sizes, *files = sys.argv[1:]
    device = resolve_device(cast(Device, device_setting))
    photos = [Path(file).read_bytes() for file in files]
    found = measure(Path(bundle), device, float(seconds), [int(size) for size in sizes.split(",")], photos)
    print(json.dumps([asdict(measurement) for measurement in found]))
