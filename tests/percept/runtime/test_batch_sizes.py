"""Batches of fixed sizes: nothing is lost, nothing is added, nothing is copied without need."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from percept.runtime import batch_sizes


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (12, (1, 2, 4, 8, 12)),
        (16, (1, 2, 4, 8, 16)),
        (17, (1, 2, 4, 8, 16, 17)),
    ],
)
def test_the_sizes_are_powers_of_two_and_the_greatest(most: int, expected: tuple[int, ...]) -> None:
    assert batch_sizes.sizes(most) == expected


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
def test_rows_go_into_the_least_bucket_that_holds_them(n: int, expected: list[tuple[slice, int]]) -> None:
    assert list(batch_sizes.parts(n, batch_sizes.sizes(6))) == expected


def test_without_buckets_rows_stay_together() -> None:
    rows = np.arange(74, dtype=np.float32).reshape(37, 2)
    seen: list[int] = []

    def double(feeds: Mapping[str, batch_sizes.Array], outputs: Sequence[str]) -> dict[str, batch_sizes.Array]:
        seen.append(len(feeds["x"]))
        return dict.fromkeys(outputs, 2 * feeds["x"])

    found = batch_sizes.run(double, {"x": list(rows)}, ["y"], ())
    assert seen == [37]
    assert np.array_equal(found["y"], 2 * rows)


def test_padding_is_zeros_behind_the_rows() -> None:
    rows = [np.full((2, 3), k, np.uint8) for k in (1, 2, 3)]
    for given in (rows, np.stack(rows)):
        batch = batch_sizes.padded(given, 4)
        assert (batch.dtype, batch.shape) == (np.uint8, (4, 2, 3))
        assert batch[:, 0, 0].tolist() == [1, 2, 3, 0]


def test_rows_that_need_no_padding_are_not_copied() -> None:
    rows = np.ones((4, 5), np.float32)
    assert batch_sizes.padded(rows, 4) is rows
    assert batch_sizes.padded(rows.T[:, :4], 5).flags.c_contiguous


@pytest.mark.parametrize("sizes", [(), (1,), (1, 2), batch_sizes.sizes(6), (4,)])
@pytest.mark.parametrize("n", [1, 2, 3, 6, 7, 13])
def test_the_results_are_those_of_the_whole(n: int, sizes: tuple[int, ...]) -> None:
    """Whatever the buckets; and the callee sees their sizes alone."""
    seen = []

    def call(feeds, outputs):
        assert len(feeds["a"]) == len(feeds["b"])
        seen.append(len(feeds["a"]))
        every = {"sum": feeds["a"] + feeds["b"] + feeds["all"], "double": 2 * feeds["a"]}
        return {name: every[name] for name in outputs}

    rng = np.random.default_rng(n)
    a, b, shared = rng.random((n, 3)), [rng.random(3) for _ in range(n)], rng.random((1, 3))
    found = batch_sizes.run(call, {"a": a, "b": b, "all": shared}, ["sum", "double"], sizes)
    assert list(found) == ["sum", "double"]
    np.testing.assert_array_equal(found["sum"], a + np.stack(b) + shared)
    np.testing.assert_array_equal(found["double"], 2 * a)
    assert set(seen) <= set(sizes or (n,))
