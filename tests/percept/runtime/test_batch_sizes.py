"""Batch sizes: splitting and padding change no result, and copy only where they must."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from percept.runtime.batch_sizes import Array, choose_batch_sizes, pad, run_batches, split


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (12, (1, 2, 4, 8, 12)),
        (16, (1, 2, 4, 8, 16)),
        (17, (1, 2, 4, 8, 16, 17)),
    ],
)
def test_sizes_are_powers_of_two_and_the_largest(largest: int, expected: tuple[int, ...]) -> None:
    assert choose_batch_sizes(largest) == expected


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, [(slice(0, 1), 1)]),
        (3, [(slice(0, 3), 4)]),
        (6, [(slice(0, 6), 6)]),
        (7, [(slice(0, 6), 6), (slice(6, 7), 1)]),
        (15, [(slice(0, 6), 6), (slice(6, 12), 6), (slice(12, 15), 4)]),
    ],
)
def test_rows_go_into_the_smallest_size_that_fits(n: int, expected: list[tuple[slice, int]]) -> None:
    assert list(split(n, choose_batch_sizes(6))) == expected


def test_without_sizes_rows_are_not_split() -> None:
    rows = np.arange(74, dtype=np.float32).reshape(37, 2)
    lengths: list[int] = []

    def double(feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        lengths.append(len(feeds["x"]))
        return dict.fromkeys(outputs, 2 * feeds["x"])

    result = run_batches(double, {"x": list(rows)}, ["y"], ())
    assert lengths == [37]
    assert np.array_equal(result["y"], 2 * rows)


def test_padding_is_zeros_after_the_rows() -> None:
    rows = [np.full((2, 3), k, np.uint8) for k in (1, 2, 3)]
    for given in (rows, np.stack(rows)):
        batch = pad(given, 4)
        assert (batch.dtype.name, batch.shape) == ("uint8", (4, 2, 3))
        assert batch[:, 0, 0].tolist() == [1, 2, 3, 0]


def test_rows_that_need_no_padding_are_not_copied() -> None:
    rows = np.ones((4, 5), np.float32)
    assert pad(rows, 4) is rows
    assert pad(rows.T[:, :4], 5).flags.c_contiguous


@pytest.mark.parametrize("sizes", [(), (1,), (1, 2), choose_batch_sizes(6), (4,)])
@pytest.mark.parametrize("n", [1, 2, 3, 6, 7, 13])
def test_batches_give_the_results_of_all_rows_together(n: int, sizes: tuple[int, ...]) -> None:
    lengths = []

    def add_and_double(feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        assert len(feeds["a"]) == len(feeds["b"])
        lengths.append(len(feeds["a"]))
        results = {"sum": feeds["a"] + feeds["b"] + feeds["all"], "double": 2 * feeds["a"]}
        return {name: results[name] for name in outputs}

    rng = np.random.default_rng(n)
    a, b, shared = rng.random((n, 3)), [rng.random(3) for _ in range(n)], rng.random((1, 3))
    result = run_batches(add_and_double, {"a": a, "b": b, "all": shared}, ["sum", "double"], sizes)
    assert list(result) == ["sum", "double"]
    np.testing.assert_array_equal(result["sum"], a + np.stack(b) + shared)
    np.testing.assert_array_equal(result["double"], 2 * a)
    assert set(lengths) <= set(sizes or (n,))
