"""Leading singular vectors against NumPy's full decomposition."""

import numpy as np
import pytest

from percept.explain.singular_vectors import leading_singular_vectors


def matrix(n: int, m: int, values: np.ndarray) -> np.ndarray:
    """A matrix [n,m] with the given singular values."""
    rng = np.random.default_rng(1)
    U, V = (np.linalg.qr(rng.standard_normal((size, len(values))))[0] for size in (n, m))
    return np.asarray((U * values) @ V.T, np.float32)


@pytest.mark.parametrize("shape", [(6, 20), (300, 400), (2048, 49), (64, 5000)])
@pytest.mark.parametrize(("count", "block"), [(1, 1), (3, 8)])
def test_vectors_equal_those_of_the_full_decomposition(shape: tuple[int, int], count: int, block: int) -> None:
    X = matrix(*shape, 0.8 ** np.arange(min(shape)))
    found = leading_singular_vectors(X, count, block)
    expected = np.linalg.svd(X.astype(np.float64), full_matrices=False)[0].T[:count]
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.abs((found * expected).sum(1)), 1, atol=1e-5)


@pytest.mark.parametrize(("rank", "count"), [(1, 1), (5, 3)])
def test_vectors_are_orthonormal_even_of_low_rank_matrices(rank: int, count: int) -> None:
    found = leading_singular_vectors(matrix(400, 300, np.linspace(2, 1, rank)), count, 8)
    np.testing.assert_allclose(found @ found.T, np.eye(count), atol=1e-5)


def test_blocks_find_vectors_of_equal_singular_values() -> None:
    X = matrix(400, 300, np.array([3, 3, 3, 1, 0.5]))
    found = leading_singular_vectors(X, 3, 8)
    np.testing.assert_allclose(np.linalg.norm(found @ X, axis=1), 3, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (400, 20)])
def test_matrices_of_zeros_have_finite_vectors(shape: tuple[int, int]) -> None:
    assert np.isfinite(leading_singular_vectors(np.zeros(shape, np.float32), 1, 1)).all()


def test_scale_does_not_change_the_vectors() -> None:
    X = matrix(300, 50, 0.8 ** np.arange(20))
    small = leading_singular_vectors(X * np.float32(2**-60))
    np.testing.assert_allclose(small, leading_singular_vectors(X), atol=1e-6)
