"""Principal components against NumPy's singular value decomposition, and their colours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percept.explain.principal_components import EXACT, TRIVIAL, principal_components, scale_to_colours


def decompose(A: np.ndarray, count: int) -> np.ndarray:
    """The components by the full singular value decomposition, with either sign."""
    X = A.reshape(len(A), -1).astype(np.float64)
    _, s, V = np.linalg.svd(X - X.mean(1, keepdims=True), full_matrices=False)
    found = np.zeros((count, X.shape[1]))
    found[: len(s)] = (s[:, None] * V)[:count]
    return found


def feature_map(C: int, h: int, w: int, seed: int = 0) -> np.ndarray:
    """A feature map with well separated singular values, as networks have."""
    rng = np.random.default_rng(seed)
    p = min(C, h * w)
    U, V = (np.linalg.qr(rng.standard_normal((n, p)))[0] for n in (C, h * w))
    A = (U * 0.8 ** np.arange(p)) @ V.T + rng.standard_normal((C, 1))
    return A.reshape(C, h, w).astype(np.float32)


@settings(max_examples=100)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 999),
    scale=st.sampled_from([1e-15, 1, 1e30]),
    count=st.integers(1, 5),
)
def test_components_equal_the_singular_value_decomposition(
    shape: tuple[int, int, int], seed: int, scale: float, count: int
) -> None:
    A = feature_map(*shape, seed=seed) * np.float32(scale)
    expected = decompose(A, count)
    found = principal_components(A, count)
    assert found.shape == (count, *shape[1:])
    assert found.dtype == np.float32
    sizes, least = np.linalg.norm(expected, axis=1), 1e-5 * np.linalg.norm(A.astype(np.float64))
    for mine, theirs, size, after in zip(found.reshape(count, -1), expected, sizes, [*sizes[1:], 0], strict=True):
        if size > max(2 * TRIVIAL * sizes[0], least) and after < 0.95 * size:
            theirs = theirs if mine @ theirs > 0 else -theirs
            np.testing.assert_allclose(mine, theirs, atol=2e-3 * sizes[0])


@pytest.mark.parametrize("shape", [(2 * EXACT, 20, 20), (EXACT + 10, 33, 33), (2048, 33, 33)])
def test_wide_layers_have_components_of_the_right_length(shape: tuple[int, int, int]) -> None:
    A = feature_map(*shape) if shape[0] < 2048 else np.random.default_rng(0).random(shape, np.float32)
    found = np.linalg.norm(principal_components(A).reshape(3, -1), axis=1)
    X = A.reshape(len(A), -1)
    X = X - X.mean(1, keepdims=True)
    G = X @ X.T if len(X) < X.shape[1] else X.T @ X
    expected = np.sqrt(np.linalg.eigvalsh(G.astype(np.float64))[::-1][:3])
    # The components of noise hardly differ in length, and the search finds some of nearly the greatest.
    np.testing.assert_allclose(found, expected, rtol=1e-4 if shape[0] < 2048 else 0.05)


@given(seed=st.integers(0, 99))
def test_components_do_not_depend_on_the_sign_of_the_channels(seed: int) -> None:
    A = feature_map(6, 4, 5, seed)
    found = principal_components(A)
    assert (found.max((1, 2)) >= -found.min((1, 2)) * (1 - 2e-4)).all()
    np.testing.assert_allclose(principal_components(-A), found, atol=1e-4)


def test_first_of_two_equal_magnitudes_is_positive() -> None:
    for A in (np.array([[[1, -1]]], np.float32), np.array([[[-1, 1]]], np.float32)):
        np.testing.assert_allclose(principal_components(A, 1), [[[1, -1]]])


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 4), (300, 20, 20)])
@pytest.mark.parametrize("value", [0, 0.1, -3e30])
def test_constant_maps_and_rounding_give_zeros(shape: tuple[int, int, int], value: float) -> None:
    A = np.full(shape, value, np.float32)
    assert not principal_components(A).any()
    noise = np.random.default_rng(0).choice([-1, 1], shape)
    assert not principal_components(np.nextafter(A, A + noise.astype(np.float32))).any() or value == 0


def test_missing_components_are_zeros() -> None:
    A = np.random.default_rng(0).random((2, 4, 4), np.float32)
    found = principal_components(A)
    assert found[:2].any((1, 2)).all()
    assert not found[2].any()


def test_colours_are_stretched_between_percentiles() -> None:
    ramp = np.arange(200, dtype=np.float32).reshape(1, 10, 20)
    with_outliers = ramp.copy()
    with_outliers[0, 0, 0], with_outliers[0, -1, -1] = -1e6, 1e6
    for maps in (ramp, with_outliers):
        found = scale_to_colours(maps)
        assert (found.min(), found.max()) == (0, 255)
        np.testing.assert_allclose(found[0].ravel()[50:150], (np.arange(50, 150) - 1.99) / 195.02 * 255, rtol=1e-4)


def test_single_hot_cells_are_visible_and_constant_maps_dark() -> None:
    maps = np.zeros((2, 20, 20), np.float32)
    maps[0, 3, 4] = 7
    found = scale_to_colours(maps)
    assert np.argwhere(found).tolist() == [[0, 3, 4]]
    assert found.max() == 255
