"""Class-activation maps against closed forms and properties, without another implementation."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from percept.explain.maps import eigencam, find_peak, fuse, normalize, resize
from tests.method_runs import GRADIENT_METHODS

rng = np.random.default_rng(0)
A = np.maximum(rng.standard_normal((6, 5, 4)), 0).astype(np.float32)
# Behind global average pooling and a linear head, the gradient of a class is one number per channel.
w = rng.standard_normal(6).astype(np.float32)
g: np.ndarray = np.broadcast_to(w[:, None, None] / 20, A.shape)
CAM = np.tensordot(w, A, 1)
METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    **GRADIENT_METHODS,
    "eigencam": lambda A, g: eigencam(A),
}


def test_cam_weighs_channels_by_the_linear_head() -> None:
    np.testing.assert_allclose(GRADIENT_METHODS["cam"](A, g), CAM, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_behind_average_pooling_gradient_maps_equal_cam_over_cells(method: str) -> None:
    np.testing.assert_allclose(GRADIENT_METHODS[method](A, g), CAM / 20, rtol=1e-5, atol=1e-6)


def test_behind_average_pooling_xgradcam_equals_gradcam() -> None:
    np.testing.assert_allclose(GRADIENT_METHODS["xgradcam"](A, g), CAM / 20, rtol=1e-4, atol=1e-6)


def test_layercam_keeps_only_positive_gradients() -> None:
    positive = np.tensordot(np.maximum(w, 0), A, 1) / 20
    np.testing.assert_allclose(GRADIENT_METHODS["layercam"](A, g), positive, rtol=1e-5, atol=1e-6)


def test_gradcam_plus_plus_of_one_channel_follows_its_equation() -> None:
    a, gradient = np.array([[[1.0, 2.0]]], np.float32), np.array([[[0.5, 0.0]]], np.float32)
    share = 0.25 / (2 * 0.25 + 3 * 0.125 + 1e-6)
    np.testing.assert_allclose(GRADIENT_METHODS["gradcam++"](a, gradient), [[0.5 * share, 1.0 * share]], rtol=1e-6)


def test_saliency_is_the_largest_gradient_of_any_channel() -> None:
    gradients = np.array([[[1, -2]], [[-3, 0.5]]], np.float32)
    np.testing.assert_array_equal(GRADIENT_METHODS["saliency"](gradients, gradients), [[3, 2]])


@pytest.mark.parametrize("method", METHODS)
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    seed=st.integers(0, 99),
    scales=st.tuples(*[st.sampled_from([0, 1e-12, 1e-3, 1, 1e4])] * 2),
    flat=st.booleans(),
)
def test_maps_have_the_layers_size_and_are_finite(method: str, shape, seed: int, scales, flat: bool) -> None:
    noise = np.random.default_rng(seed)
    activations = np.ones(shape) if flat else np.maximum(noise.standard_normal(shape), 0)
    found = METHODS[method](
        (activations * scales[0]).astype(np.float32), (noise.standard_normal(shape) * scales[1]).astype(np.float32)
    )
    assert found.shape == shape[1:]
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def project(activations: np.ndarray) -> np.ndarray:
    """The map by the definition, in float64."""
    X = activations.reshape(len(activations), -1).T.astype(np.float64)
    X = X - X.mean(0)
    return (X @ np.linalg.svd(X, full_matrices=False)[2][0]).reshape(activations.shape[1:])


@pytest.mark.parametrize("shape", [(6, 5, 4), (40, 3, 3), (200, 12, 13), (300, 20, 20), (1, 4, 4), (9, 1, 2)])
def test_eigencam_projects_on_the_first_singular_vector(shape) -> None:
    activations = np.maximum(np.random.default_rng(1).standard_normal(shape), 0).astype(np.float32)
    found, expected = eigencam(activations), project(activations)
    away = min(np.abs(found - sign * expected).max() for sign in (1, -1))
    assert away < 1e-4 * np.abs(expected).max()


@given(st.integers(0, 999))
def test_eigencam_grows_with_the_mean_of_the_channels(seed: int) -> None:
    activations = np.random.default_rng(seed).standard_normal((5, 4, 3)).astype(np.float32)
    found, mean = eigencam(activations), activations.mean(0)
    assert ((found - found.mean()) * (mean - mean.mean())).sum() > 0


def test_eigencam_has_the_larger_peak_if_the_mean_is_constant() -> None:
    one = np.array([[5, 1, 0], [0, 0, 0]], np.float32)
    found = eigencam(np.stack([one, -one]))
    assert found.max() > -found.min()
    np.testing.assert_array_equal(found, eigencam(np.stack([-one, one])))


def test_eigencam_is_deterministic_and_independent_of_scale() -> None:
    np.testing.assert_array_equal(eigencam(A), eigencam(A.copy()))
    np.testing.assert_allclose(eigencam(A * 2**-50), eigencam(A) * 2**-50, rtol=1e-5, atol=1e-20)


def test_eigengradcam_grows_with_hirescam() -> None:
    gradients = rng.standard_normal(A.shape).astype(np.float32)
    found, hires = GRADIENT_METHODS["eigengradcam"](A, gradients), GRADIENT_METHODS["hirescam"](A, gradients)
    assert np.corrcoef(found.ravel(), hires.ravel())[0, 1] > 0


def test_normalize_is_relu_divided_by_the_maximum() -> None:
    np.testing.assert_allclose(normalize(np.array([[-2, 1], [4, 0]], np.float32)), [[0.0, 0.25], [1.0, 0.0]])
    assert normalize(np.full((2, 2), -1, np.float32)).max() == 0


def test_peak_is_the_first_hottest_cell_above_zero() -> None:
    assert find_peak(np.array([[0, 0.5], [1, 1]], np.float32)) == (1, 0)
    assert find_peak(np.zeros((2, 3), np.float32)) is None


def test_fuse_averages_maps_of_one_size() -> None:
    one, other = np.array([[0, 1]], np.float32), np.array([[1, 0.5]], np.float32)
    np.testing.assert_array_equal(fuse([one, other]), [[0.5, 0.75]])


def test_fuse_returns_a_single_map() -> None:
    np.testing.assert_array_equal(fuse([normalize(CAM)]), normalize(CAM))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4), st.integers(0, 99))
def test_fuse_has_the_size_of_the_finest_map(shapes, seed: int) -> None:
    noise = np.random.default_rng(seed)
    found = fuse([noise.random(shape, np.float32) for shape in shapes])
    assert found.shape == tuple(np.max(shapes, 0))
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1


def test_fuse_keeps_coarse_maps_in_place() -> None:
    """A hot quarter stays that quarter, because cells are areas with their value at the centre."""
    coarse = np.array([[0, 0], [1, 0]], np.float32)
    found = fuse([coarse, np.zeros((8, 8), np.float32)])
    np.testing.assert_allclose(found, resize(coarse, (8, 8)) / 2)
    assert found[6:, :2].min() == 0.5
    assert found[:2].max() == found[:, 6:].max() == 0


def test_normalize_by_quantile_saturates_the_hottest_values() -> None:
    raw = np.arange(-100, 900, dtype=np.float32).reshape(20, 50)
    heat = normalize(raw, 0.99)
    assert heat.max() == 1
    assert (heat == 1).sum() == 10
    assert heat[2, 1] == pytest.approx(1 / np.quantile(np.maximum(raw, 0), 0.99))
    single = np.zeros((20, 50), np.float32)
    single[3, 4] = 7
    assert normalize(single, 0.99)[3, 4] == 1
    assert not normalize(-single, 0.99).any()
