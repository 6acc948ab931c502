"""Integrated gradients and SmoothGrad against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percept.explain import maps
from percept.explain.methods import gradients
from tests.percept.explain.synthetic_network import SyntheticNetwork


def test_smoothgrad_equals_saliency_where_gradients_are_constant() -> None:
    network = SyntheticNetwork("linear")
    inputs = network.inputs(network.noise())
    np.testing.assert_allclose(
        network.compute_map("smoothgrad", inputs), network.compute_map("saliency", inputs), rtol=1e-5
    )


@settings(max_examples=25)
@given(st.integers(0, 9999))
def test_integrated_gradients_add_up_to_the_change_of_y(seed: int) -> None:
    network = SyntheticNetwork()
    inputs = network.inputs(network.noise(seed))
    gained = inputs.y - network.y(np.zeros_like(inputs.A)[None])[0]
    size = np.abs(inputs.A * network.g(inputs.A[None])[0]).sum()
    assert abs(network.compute_map("integrated_gradients", inputs).sum() - gained) < 0.01 * max(size, abs(gained))


def test_integrated_gradients_equal_the_integral() -> None:
    network = SyntheticNetwork()
    inputs = network.inputs(network.noise())
    A = inputs.A.astype(np.float64)
    path = (np.arange(20000) + 0.5)[:, None, None, None] / 20000 * A
    expected = (A * network.g(path).mean(0)).sum(0)
    np.testing.assert_allclose(
        network.compute_map("integrated_gradients", inputs), expected, atol=0.02 * np.abs(expected).max()
    )


def test_smoothgrad_without_noise_equals_saliency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "NOISE", 0)
    network = SyntheticNetwork()
    inputs = network.inputs(network.noise())
    np.testing.assert_allclose(
        network.compute_map("smoothgrad", inputs), network.compute_map("saliency", inputs), rtol=1e-5
    )


def test_smoothgrad_is_the_mean_of_noisy_saliencies() -> None:
    network = SyntheticNetwork()
    inputs = network.inputs(network.noise())
    rng, sigma = np.random.default_rng(0), 0.15 * (inputs.A.max() - inputs.A.min())
    noisy = [inputs.A + sigma * rng.standard_normal(inputs.A.shape, np.float32) for _ in range(gradients.SAMPLES)]
    expected = np.mean([maps.saliency(A, network.g(A[None].astype(np.float64))[0]) for A in noisy], 0)
    np.testing.assert_allclose(network.compute_map("smoothgrad", inputs), expected, rtol=1e-4)
