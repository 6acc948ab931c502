"""The gradients of a tail against finite differences of its own logits: no reference is needed."""

from collections.abc import Mapping

import numpy as np

from percept.bundle.manifest import Layer
from percept_models.autodiff.tail import GRADIENTS, LOGITS
from percept_models.graph.reader import Array
from percept_models.verify.checks import Check
from percept_models.verify.runner import BundleRunner

LIMIT = 5e-2  # of a slope in float32: differences suffer from rounding and from the kinks of ReLUs
STEPS = (1e-2, 1e-3, 1e-4)  # of the differences, as shares of the activations
IMAGES = 3  # on which slopes are measured


def check_finite_differences(runner: BundleRunner, layer: Layer, outputs: Mapping[str, Array]) -> Check:
    """Compare g with the slope of y = sum(seed * logits) along two directions: A, and A in half of its channels.

    The slope is the central difference (y(A + s d) - y(A - s d)) / 2s along the direction d. Along A activations grow
    and shrink in proportion, so that the zeros of a ReLU stay zero. The error along a direction is the least of all
    steps and images: a small step is lost in rounding, a large one crosses kinks.
    """
    outputs = {name: values[:IMAGES] for name, values in outputs.items()}
    seed, A = runner.seed[:IMAGES], outputs[layer.name].astype(np.float64)
    g = runner.run_tail(layer, outputs, seed)[GRADIENTS]
    half = np.random.default_rng(0).permutation(A.shape[1]) % 2

    def y(activations: Array) -> Array:
        moved = {**outputs, layer.name: activations.astype(np.float32)}
        return _sum_products(runner.run_tail(layer, moved, seed)[LOGITS], seed)

    worst = 0.0
    for direction in (A, A * half[:, None, None]):
        expected = _sum_products(g, direction)
        slopes = [(y(A + step * direction) - y(A - step * direction)) / (2 * step) for step in STEPS]
        worst = max(worst, float((np.abs(slopes - expected) / np.maximum(np.abs(expected), 1e-30)).min()))
    return Check(f"{layer.name} gradients by differences", worst, LIMIT)


def _sum_products(a: Array, b: Array) -> Array:
    """The sum of a * b of each image, [N]."""
    return np.asarray((a.astype(np.float64) * b).reshape(len(a), -1).sum(1))
