"""The gradients of a tail against finite differences of its own logits: no reference is needed."""

from collections.abc import Mapping
from math import inf

import numpy as np

from percept.bundle.manifest import Layer
from percept_models.autodiff.tail import GRADIENTS, LOGITS
from percept_models.graph.reader import Array
from percept_models.verify.checks import MILLIONTH, Check
from percept_models.verify.runner import BundleRunner

LIMIT = 5e-2  # of a slope in float32: differences suffer from rounding and from the kinks of ReLUs
STEPS = (1e-3, 1e-2, 1e-4, 1e-5)  # of the differences, as shares of the activations
IMAGES = 3  # at most, on which slopes are measured
NOISE_NOTE = "the limit is how far rounding moves the differences"


def check_finite_differences(runner: BundleRunner, layer: Layer, outputs: Mapping[str, Array]) -> Check:
    """Compare g with the slope of y = sum(seed * logits) along two directions: A, and A in half of its channels.

    The slope is the central difference (y(A + s d) - y(A - s d)) / 2s along the direction d. Along A activations grow
    and shrink in proportion, so that the zeros of a ReLU stay zero. The error along a direction is the least of all
    steps and images, up to the first that passes: a small step is lost in rounding, a large one crosses kinks. Where
    none passes, the limit is the share of the slope that rounding makes up.
    """
    images = [_Slopes(runner, layer, outputs, k) for k in range(min(IMAGES, len(runner.pixels)))]
    half = np.random.default_rng(0).permutation(layer.shape[0]) % 2
    masks = (np.ones(layer.shape[0]), half)
    error = max(_least_error(images, mask[:, None, None]) for mask in masks)
    name = f"{layer.name} gradients by differences"
    if error <= LIMIT:
        return Check(name, error, LIMIT)
    noise = max(min(image.noise(mask[:, None, None]) for image in images) for mask in masks)
    return Check(name, error, max(LIMIT, noise), NOISE_NOTE if noise > LIMIT else "")


class _Slopes:
    """The slopes of y at a layer's activations A [1,C,h,w] of one image."""

    def __init__(self, runner: BundleRunner, layer: Layer, outputs: Mapping[str, Array], image: int) -> None:
        self._runner, self._layer = runner, layer
        self._outputs = {name: values[image : image + 1] for name, values in outputs.items()}
        self._seed = runner.seed[image : image + 1]
        self._A = self._outputs[layer.name].astype(np.float64)
        self._g: Array | None = None

    def error(self, mask: Array, step: float) -> float:
        """The relative error of g along A * mask."""
        up, down = self._y(self._A * (1 + step * mask)), self._y(self._A * (1 - step * mask))
        return abs((up - down) / (2 * step) - self._expected(mask)) / (abs(self._expected(mask)) or 1e-30)

    def noise(self, mask: Array) -> float:
        """The relative error of the difference with the largest step that comes from rounding alone."""
        moved = self._y(self._A * (1 + MILLIONTH * mask)) - MILLIONTH * self._expected(mask)
        return abs(moved - self._y(self._A)) / max(STEPS) / (abs(self._expected(mask)) or 1e-30)

    def _expected(self, mask: Array) -> float:
        if self._g is None:
            self._g = self._runner.run_tail(self._layer, self._outputs, self._seed)[GRADIENTS].astype(np.float64)
        return float((self._g * self._A * mask).sum())

    def _y(self, activations: Array) -> float:
        moved = {**self._outputs, self._layer.name: activations.astype(np.float32)}
        logits = self._runner.run_tail(self._layer, moved, self._seed)[LOGITS]
        return float((logits.astype(np.float64) * self._seed).sum())


def _least_error(images: list[_Slopes], mask: Array) -> float:
    """The first error that passes, else the least."""
    least = inf
    for error in (image.error(mask, step) for image in images for step in STEPS):
        least = min(least, error)
        if least <= LIMIT:
            break
    return least
