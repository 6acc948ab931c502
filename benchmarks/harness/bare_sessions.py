"""The baseline of `startup.py`: a process that only loads graphs, with the options of the service.

`python -m benchmarks.harness.bare_sessions THREADS WORKERS FILE...` prints a line when all graphs are loaded. For each
number on standard input, it runs that many images through the trunks in turn, `WORKERS` at a time, and prints a line.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from percept.runtime.session import Session


def run(sessions: Sequence[Session], images: int, workers: int) -> None:
    """Run blank images through the trunks among the sessions, in turn."""
    trunks = [session for session in sessions if "pixels" in session.inputs]
    shapes: list[Any] = [session.inputs["pixels"].shape[1:] for session in trunks]
    blanks = [np.zeros((1, *shape), np.uint8) for shape in shapes]
    with ThreadPoolExecutor(workers) as pool:
        turns = [k % len(trunks) for k in range(images)]
        list(pool.map(lambda k: trunks[k].run({"pixels": blanks[k]}, ["logits"]), turns))


if __name__ == "__main__":
    threads, workers, *files = sys.argv[1:]
    sessions = [Session(Path(file), "cpu", int(threads)) for file in files]
    print("loaded", flush=True)
    for line in sys.stdin:
        run(sessions, int(line), int(workers))
        print("done", flush=True)
