"""`python benchmarks/heatmap_latency.py`: compare the latency of heatmaps with that of a prediction.

One client posts the same photo of 640 x 480 pixels to each endpoint in turn, so that noise affects all of them; the
medians of all rounds are compared. The networks are torchvision's at full size with random weights. The exit status is
1 if a bar is missed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the package `benchmarks`

from benchmarks.harness.report import format_row, format_table
from benchmarks.harness.server import start_percept
from benchmarks.harness.workspace import create_bundle, generate_photo, open_workspace

NETWORKS = ("mobilenet", "resnet50")
WARM_UP_ROUNDS = 3
HEADINGS = ("network", "request", "ms", "baseline", "ratio", "bar", "met")
TEN = "&".join(f"target={k}" for k in range(10))
# name, path and parameters, baseline, greatest ratio to the baseline
ROWS = (
    ("/cam npy", "/cam?format=npy", "/predict", 1.15),
    ("/cam overlay", "/cam", "/predict", 1.4),
    ("/cam reciprocam npy", "/cam?format=npy&method=reciprocam", "/cam npy", 1.3),
    ("/cam ten classes npy", f"/cam?format=npy&{TEN}", "/cam npy", 2.0),
)


def measure(client: httpx.Client, model: str, rounds: int) -> dict[str, float]:
    """The median milliseconds of every request, sent in turn."""
    photo = generate_photo()
    paths = {"/predict": "/predict", **{name: path for name, path, _, _ in ROWS}}
    spent: dict[str, list[float]] = {name: [] for name in paths}
    for turn in range(-WARM_UP_ROUNDS, rounds):
        for name, path in paths.items():
            start = perf_counter()
            client.post(f"{path}{'&' if '?' in path else '?'}model={model}", content=photo).raise_for_status()
            if turn >= 0:
                spent[name].append(1e3 * (perf_counter() - start))
    return {name: float(np.median(times)) for name, times in spent.items()}


def main(given: Sequence[str] | None = None) -> None:
    """Export, serve, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args(given).rounds
    missed = False
    print(format_table(HEADINGS, ()))
    with open_workspace(None) as workspace:
        bundles = [create_bundle(network, "float32", workspace) for network in NETWORKS]
        repository = bundles[0].parents[1]  # of all bundles of this precision
        with (
            start_percept(repository, workspace) as server,
            httpx.Client(base_url=server.address, timeout=60) as client,
        ):
            for network in NETWORKS:
                medians = measure(client, network, rounds)
                for name, _, baseline, bar in ROWS:
                    ratio = medians[name] / medians[baseline]
                    missed |= ratio > bar
                    numbers = (f"{medians[name]:.1f}", baseline, f"{ratio:.2f}", f"at most {bar:g}")
                    print(format_row((network, name, *numbers, "yes" if ratio <= bar else "NO")), flush=True)
    sys.exit(missed)


if __name__ == "__main__":
    main()
