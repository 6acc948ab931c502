"""`python benchmarks/throughput.py`: compare every endpoint over HTTP with a bare loop of ONNX Runtime.

The bare loop runs Percept's decoding and graph on one thread per core. Service and bare loop alternate in every round
on the same photo: on a noisy machine only the ratios mean anything.
"""

import http.client
import io
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np
from PIL import Image

from percept.imaging.decode import decode_reduced
from percept.imaging.preprocess import prepare
from percept.runtime.cpu_count import count_cpus
from percept.runtime.network import Network, TrunkInput
from percept.settings import BUILT_IN_BUNDLES

SECONDS, ROUNDS, CLIENTS = 3.0, 5, 8
PATHS = {
    "/predict": "/predict?model={model}",
    "/features npy": "/features?model={model}&layer={layer}&format=npy",
    "/cam npy": "/cam?model={model}&format=npy",
    "/cam overlay": "/cam?model={model}",
}


def photo() -> bytes:
    """A 640 x 480 JPEG of smooth noise, about as large as a real photo."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def bare(network: Network, data: bytes) -> float:
    """Images per second of decode, prepare and trunk in a loop on every core."""
    rule = network.manifest.preprocessing

    def work(end: float) -> int:
        done = 0
        while time.monotonic() < end:
            image = decode_reduced(rule, data, 10**8, 10**8)
            network.run_trunk([TrunkInput(prepare(*image, rule), frozenset({"logits"}))])
            done += 1
        return done

    end = time.monotonic() + SECONDS
    with ThreadPoolExecutor(count_cpus()) as pool:
        return sum(pool.map(work, [end] * count_cpus())) / SECONDS


def load(address: tuple[str, int], path: str, data: bytes, end: float) -> int:
    """Post `data` repeatedly over one connection; return the number of responses until `end`."""
    connection = http.client.HTTPConnection(*address)
    done = 0
    while time.time() < end:
        connection.request("POST", path, data, {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path} answered {answer.status}")
        done += 1
    connection.close()
    return done


def client(address: tuple[str, int], path: str, data: bytes, end: float) -> int:
    """Run all connections of the load generator, in a separate process."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(lambda _: load(address, path, data, end), range(CLIENTS)))


@contextmanager
def served() -> Iterator[tuple[str, int]]:
    """Start the service with the built-in bundles; yield its address."""
    environment = {**os.environ, "PERCEPT_PORT": "0", "PERCEPT_LOG_LEVEL": "info", "PERCEPT_DEVICE": "cpu"}
    command = [sys.executable, "-m", "percept", "serve"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        address = ""
        for line in process.stderr:
            if found := re.search(r"http://([\d.]+:\d+)", line):
                address = found[1]
            if address and line.count("served as") and "clothing" in line:
                break
        with ThreadPoolExecutor(1) as drain:
            drain.submit(process.stderr.read)
            host, port = address.split(":")
            yield host, int(port)
            process.terminate()


def over_http(pool: ProcessPoolExecutor, address: tuple[str, int], path: str, data: bytes) -> float:
    """Images per second of one endpoint."""
    return pool.submit(client, address, path, data, time.time() + SECONDS).result() / SECONDS


def main() -> None:
    """Measure every built-in bundle and print one table."""
    data = photo()
    print(
        f"{count_cpus()} cores, {CLIENTS} clients, {ROUNDS} interleaved rounds of {SECONDS:.0f} s, JPEG {len(data)} B\n"
    )
    print("| model | what | images/s (median) | of the bare loop (median, range) |\n|---|---|---|---|")
    with served() as address, ProcessPoolExecutor(1) as pool:
        for name in ("cifar10", "clothing"):
            network = Network(BUILT_IN_BUNDLES / name / "1", "cpu", 1)
            layer = network.manifest.cam_layer
            measurements: dict[str, Callable[[], float]] = {"bare loop": partial(bare, network, data)}
            for what, path in PATHS.items():
                measurements[what] = partial(over_http, pool, address, path.format(model=name, layer=layer), data)
            rounds = [{what: measurement() for what, measurement in measurements.items()} for _ in range(ROUNDS)]
            for what in measurements:
                ratios = [r[what] / r["bare loop"] for r in rounds]
                rate = statistics.median(r[what] for r in rounds)
                format_median = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                print(f"| {name} | {what} | {rate:.0f} | {format_median} |", flush=True)


if __name__ == "__main__":
    main()
