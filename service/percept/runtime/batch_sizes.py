"""Batches of fixed sizes: rows are padded up to the next batch size, and the padding is dropped from the results.

CUDA keeps the plan of a convolution for the last shape only and makes a new plan for every other shape: fewer shapes
mean fewer plans. A CPU needs no fixed sizes: without batch sizes a batch runs as it is. This module does not know what
the rows are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Rows = Array | Sequence[Array]


def choose_batch_sizes(largest: int) -> tuple[int, ...]:
    """The powers of two below a batch size, and the size itself, ascending."""
    return tuple(sorted({2**k for k in range(largest.bit_length())} | {largest}))


def split(n: int, sizes: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Slices of n rows, each with the batch size that it is padded to; all but the last fill the largest size."""
    for start in range(0, n, sizes[-1]):
        stop = min(start + sizes[-1], n)
        yield slice(start, stop), min(size for size in sizes if size >= stop - start)


def pad(rows: Rows, size: int) -> Array:
    """The rows as one contiguous array [size,...], followed by zeros; copies only if necessary."""
    if isinstance(rows, np.ndarray) and len(rows) == size:
        return np.ascontiguousarray(rows)
    if len(rows) == size == 1:
        return np.ascontiguousarray(rows[0])[None]
    batch = np.empty((size, *rows[0].shape), rows[0].dtype)
    if isinstance(rows, np.ndarray):
        batch[: len(rows)] = rows
    else:
        np.stack(rows, out=batch[: len(rows)])
    batch[len(rows) :] = 0
    return batch


def run_batches(
    run: Callable[[Mapping[str, Array], Sequence[str]], Mapping[str, Array]],
    feeds: Mapping[str, Rows],
    outputs: Sequence[str],
    sizes: Sequence[int],
) -> dict[str, Array]:
    """The outputs [n,...] of `run` for feeds of n rows each, split and padded to the batch sizes.

    A feed of one row applies to all rows of the other feeds: every batch receives it unchanged.
    """
    n = max(map(len, feeds.values()))
    if not sizes:
        return dict(run({name: pad(rows, len(rows)) for name, rows in feeds.items()}, outputs))
    results = []
    for part, size in split(n, sizes):
        batch = {name: pad(rows[part], size) if len(rows) == n else np.asarray(rows) for name, rows in feeds.items()}
        used = part.stop - part.start
        results.append({name: array[:used] for name, array in run(batch, outputs).items()})
    if len(results) == 1:
        return results[0]
    return {name: np.concatenate([result[name] for result in results]) for name in outputs}
