"""Batches of fixed sizes: rows are padded up to the next bucket, and what is padded is dropped from the results.

CUDA keeps the plan of a convolution for the last shape only, and makes a new one for each that differs: fewer shapes
are fewer plans. The CPU needs none of it: without buckets a batch runs as it is. What the rows are is not known here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Rows = Array | Sequence[Array]


def choose_batch_sizes(most: int) -> tuple[int, ...]:
    """The powers of two up to a size, and the size itself, ascending."""
    return tuple(sorted({2**k for k in range(most.bit_length())} | {most}))


def split(n: int, buckets: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """How n rows are run: slices of them, each with the size that it is padded to.

    All but the last fill the greatest bucket.
    """
    for start in range(0, n, buckets[-1]):
        stop = min(start + buckets[-1], n)
        yield slice(start, stop), min(size for size in buckets if size >= stop - start)


def pad(rows: Rows, size: int) -> Array:
    """The rows in one array [size,...] with zeros behind them; the rows themselves if they are that already."""
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
    call: Callable[[Mapping[str, Array], Sequence[str]], Mapping[str, Array]],
    feeds: Mapping[str, Rows],
    outputs: Sequence[str],
    buckets: Sequence[int],
) -> dict[str, Array]:
    """The outputs [n,...] of `call` for feeds of n rows each, cut and padded to the buckets.

    A feed of one row beside others of more belongs to all of them, and is given whole.
    """
    n = max(map(len, feeds.values()))
    if not buckets:
        return dict(call({name: pad(rows, len(rows)) for name, rows in feeds.items()}, outputs))
    found = []
    for part, size in split(n, buckets):
        batch = {name: pad(rows[part], size) if len(rows) == n else np.asarray(rows) for name, rows in feeds.items()}
        used = part.stop - part.start
        found.append({name: array[:used] for name, array in call(batch, outputs).items()})
    return found[0] if len(found) == 1 else {name: np.concatenate([one[name] for one in found]) for name in outputs}
