"""Class-activation maps against what can be said of them without any other implementation."""

import numpy as np
import pytest

from service.cam import METHODS, unit

rng = np.random.default_rng(0)
A = np.maximum(rng.standard_normal((6, 5, 4)), 0).astype(np.float32)
# The gradient of a class behind global average pooling and a linear head is one number per channel.
w = rng.standard_normal(6).astype(np.float32)
g = np.broadcast_to(w[:, None, None] / 20, A.shape)
CAM = np.tensordot(w, A, 1)


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_behind_average_pooling_gradient_maps_are_cam_over_the_cells(method: str) -> None:
    np.testing.assert_allclose(METHODS[method](A, g), CAM / 20, rtol=1e-5, atol=1e-6)


def test_behind_average_pooling_xgradcam_is_gradcam() -> None:
    np.testing.assert_allclose(METHODS["xgradcam"](A, g), CAM / 20, rtol=1e-4, atol=1e-6)


def test_layercam_keeps_only_positive_gradients() -> None:
    positive = np.tensordot(np.maximum(w, 0), A, 1) / 20
    np.testing.assert_allclose(METHODS["layercam"](A, g), positive, rtol=1e-5, atol=1e-6)


def test_gradcam_plus_plus_of_one_channel_is_its_equation() -> None:
    a, gradient = np.array([[[1.0, 2.0]]], np.float32), np.array([[[0.5, 0.0]]], np.float32)
    share = 0.25 / (2 * 0.25 + 3 * 0.125 + 1e-6)
    np.testing.assert_allclose(METHODS["gradcam++"](a, gradient), [[0.5 * share, 1.0 * share]], rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_map_of_the_layers_size_and_stays_finite(method: str) -> None:
    for activations, gradients in ((A, rng.standard_normal(A.shape)), (A * 0, g), (A, g * 0)):
        found = METHODS[method](activations.astype(np.float32), gradients.astype(np.float32))
        assert found.shape == (5, 4)
        assert found.dtype == np.float32
        assert np.isfinite(found).all()


def test_unit_is_relu_divided_by_the_maximum() -> None:
    np.testing.assert_allclose(unit(np.array([[-2, 1], [4, 0]], np.float32)), [[0, 0.25], [1, 0]])
    assert unit(np.full((2, 2), -1, np.float32)).max() == 0
