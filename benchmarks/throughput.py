"""`python benchmarks/throughput.py`: compare every endpoint over HTTP with a bare loop of ONNX Runtime.

The bare loop runs Percept's decoding and graph on one thread per core. Service and bare loop alternate in every round
on the same photo: on a noisy machine only the ratios mean anything.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the package `benchmarks`

from benchmarks.harness.bare_loop import Setting
from benchmarks.harness.report import format_median, format_row, format_table
from benchmarks.harness.server import Server, measure_bare_loop, post_photos, start_percept
from benchmarks.harness.workspace import Workspace, open_workspace, photo_files
from percept.bundle.integrity import read_manifest
from percept.runtime.cpu_count import count_cpus
from percept.settings import BUILT_IN_BUNDLES

SECONDS, ROUNDS, CLIENTS = 3.0, 5, 8
BARE = "bare loop"
HEADINGS = ("model", "what", "images/s (median)", "of the bare loop (median, range)")
PATHS = {
    "/predict": "/predict?model={model}",
    "/features npy": "/features?model={model}&layer={layer}&format=npy",
    "/cam npy": "/cam?model={model}&format=npy",
    "/cam overlay": "/cam?model={model}",
}


def loop_rate(bundle: Path, workspace: Workspace) -> float:
    """Images per second of the bare loop, one thread per core."""
    return measure_bare_loop(bundle, Setting(1, count_cpus(), 1, 1), SECONDS, workspace)["rate"]


def endpoint_rate(server: Server, path: str, workspace: Workspace) -> float:
    """Images per second of one endpoint."""
    return post_photos(server, CLIENTS, SECONDS, workspace, path).rate


def main() -> None:
    """Measure every built-in bundle and print one table."""
    with open_workspace(None) as workspace, start_percept(BUILT_IN_BUNDLES, workspace) as server:
        (photo,) = photo_files(workspace)
        size = photo.stat().st_size
        print(f"{count_cpus()} cores, {CLIENTS} clients, {ROUNDS} interleaved rounds of {SECONDS:g} s, JPEG {size} B\n")
        print(format_table(HEADINGS, ()))
        for name in ("cifar10", "clothing"):
            bundle = BUILT_IN_BUNDLES / name / "1"
            layer = read_manifest(bundle).cam_layer
            measurements: dict[str, Callable[[], float]] = {BARE: partial(loop_rate, bundle, workspace)}
            for what, path in PATHS.items():
                measurements[what] = partial(endpoint_rate, server, path.format(model=name, layer=layer), workspace)
            rounds = [{what: measurement() for what, measurement in measurements.items()} for _ in range(ROUNDS)]
            for what in measurements:
                ratio = format_median([rates[what] / rates[BARE] for rates in rounds], 2)
                rate = median(rates[what] for rates in rounds)
                print(format_row((name, what, f"{rate:.0f}", ratio)), flush=True)


if __name__ == "__main__":
    main()
