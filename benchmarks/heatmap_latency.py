"""`python benchmarks/heatmap_latency.py`: compare the latency of heatmaps with that of a prediction.

One client posts the same photo of 640 x 480 pixels to each endpoint in turn, so that noise affects all of them; the
medians of all rounds are compared. The networks are torchvision's at full size with random weights. The exit status is
1 if a bar is missed.
"""

import argparse
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from time import perf_counter, sleep

import httpx
import numpy as np
from PIL import Image

from percept_models.export.convert import convert
from percept_models.export.options import ExportOptions

NETWORKS = {"mobilenet": "torchvision:mobilenet_v2", "resnet": "torchvision:resnet50"}
TEN = "&".join(f"target={k}" for k in range(10))
# name, path and parameters, baseline, greatest ratio to the baseline
ROWS = (
    ("/cam npy", "/cam?format=npy", "/predict", 1.15),
    ("/cam overlay", "/cam", "/predict", 1.4),
    ("/cam reciprocam npy", "/cam?format=npy&method=reciprocam", "/cam npy", 1.3),
    ("/cam ten classes npy", f"/cam?format=npy&{TEN}", "/cam npy", 2.0),
)


@contextmanager
def served(bundles: Path) -> Iterator[httpx.Client]:
    """Start the service; yield an HTTP client."""
    own = {"PERCEPT_MODELS": str(bundles), "PERCEPT_PORT": "0", "PERCEPT_DEVICE": "cpu"}
    command = [sys.executable, "-m", "percept", "serve"]
    with subprocess.Popen(
        command, env={**os.environ, **own}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        address = next(found[0] for line in process.stderr if (found := re.search(r"http://[\d.]+:\d+", line)))
        drain = Thread(target=process.stderr.read)  # a full pipe would block the service
        drain.start()
        with httpx.Client(base_url=address, timeout=60) as client:
            while client.get("/health/ready").status_code != 200:
                sleep(0.1)
            yield client
        process.terminate()
        drain.join()


def photo() -> bytes:
    """A smooth photo of 640 x 480 as JPEG."""
    blots = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(blots).resize((640, 480), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def measure(client: httpx.Client, model: str, rounds: int) -> dict[str, float]:
    """The median milliseconds of every request, sent in turn."""
    data = photo()
    paths = {"/predict": "/predict?", **{name: f"{path}{'&' if '?' in path else '?'}" for name, path, _, _ in ROWS}}
    spent: dict[str, list[float]] = {name: [] for name in paths}
    for turn in range(rounds + 3):
        for name, path in paths.items():
            start = perf_counter()
            client.post(f"{path}model={model}", content=data).raise_for_status()
            if turn >= 3:
                spent[name].append(1e3 * (perf_counter() - start))
    return {name: float(np.median(times)) for name, times in spent.items()}


def main() -> None:
    """Export, serve, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    missed = False
    print("| network | request | ms | baseline | ratio | bar | met |\n|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as scratch:
        for name, source in NETWORKS.items():
            convert(ExportOptions(source, name, out=Path(scratch), weights="none"), lambda _: None)
        with served(Path(scratch)) as client:
            for name in NETWORKS:
                medians = measure(client, name, rounds)
                for name_of_row, _, baseline, bar in ROWS:
                    ratio = medians[name_of_row] / medians[baseline]
                    missed |= ratio > bar
                    options = f"{medians[name_of_row]:.1f} | {baseline} | {ratio:.2f} | at most {bar:g}"
                    print(f"| {name} | {name_of_row} | {options} | {'yes' if ratio <= bar else 'NO'} |", flush=True)
    sys.exit(missed)


if __name__ == "__main__":
    main()
