"""The bare sessions of `start.py`: graphs loaded as the service loads them, by a process that does nothing else.

`python -m benchmarks.harness.bare_sessions THREADS WORKERS FILE...` prints a line when all are loaded. A number on its standard
input then has that many images run through the trunks among them, in turn, `WORKERS` at once, and prints another line.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from percept.runtime.session import Session


def run(sessions: Sequence[Session], images: int, workers: int) -> None:
    """Run blank images through the sessions that take some, in turn."""
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
