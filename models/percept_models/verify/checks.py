"""What a check is: a relative error and the limit below which it passes.

The error of `found` is max|found - expected| / max|expected|. Activations and gradients are arrays [N,C,h,w]. This
module does not know which network computed them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from percept.bundle.manifest import Layer, Precision
from percept_models.graph.reader import Array

LIMIT = 1e-4  # of logits and activations: rounding accumulates over a whole network
GRADIENT_LIMIT = 1e-5  # of the gradients of a tail, computed from the same activations
JUMP_LIMIT = 0.1  # the greatest error of a gradient that rounding may excuse, unless the network is chaotic
ROUNDING_LIMIT = 1.0  # the same for values
CHAOS = 1e-2  # rounding moves the logits of a chaotic network by more, and its gradients by any amount
MILLIONTH = 1e-6  # the relative change of an input that shows how a network amplifies rounding
LIMITS: dict[Precision, float] = {"float32": LIMIT, "float16": 3e-2, "int8": 0.3}


@dataclass(frozen=True)
class Check:
    """One comparison: its name, the error, the greatest error that passes, and a remark."""

    name: str
    error: float
    limit: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is a number within the limit."""
        return self.error <= self.limit


def difference(found: Array, expected: Array) -> float:
    """max|found - expected| / max|expected|; infinite where the shapes differ or a value is not finite."""
    if found.shape != expected.shape or not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return inf
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    return float(np.abs(found.astype(np.float64) - expected).max(initial=0.0)) / scale


def differences(found: Array, expected: Array) -> list[float]:
    """The difference of each image."""
    return [difference(*pair) for pair in zip(found, expected, strict=True)]


def mean_difference(found: Array, expected: Array) -> float:
    """The root mean square of found - expected, relative to that of expected; infinite where `difference` is.

    For activations that are rounded to few levels: an error in the last bit moves single cells by a whole level.
    """
    if difference(found, expected) == inf:
        return inf
    error, scale = (float(np.square(y, dtype=np.float64).mean()) for y in (found - expected, expected))
    return float(np.sqrt(error / (scale or 1.0)))


def check_activations(
    layer: Layer, found: Mapping[str, Array], expected: Mapping[str, Array], limit: float = LIMIT
) -> Check:
    """Compare the activations of a layer; the note says why the layer has no gradients, if it has none."""
    error = difference(found[layer.name], expected[layer.name])
    return Check(f"{layer.name} activations", error, limit, layer.unavailable or "")


def check_gradients(name: str, found: Array, expected: Array, limit: float = GRADIENT_LIMIT) -> Check:
    """Compare gradients image by image; the check's error is the least of all images.

    A gradient jumps where the input of a ReLU is 0. An image has millions of such inputs, and rounding alone moves one
    of them across 0 now and then, in deep networks on every image. A wrong reverse-mode rule is wrong on all images.
    """
    errors = differences(found, expected)
    beyond = sum(error > limit for error in errors)
    note = f"beyond the limit on {beyond} of {len(errors)} images" if beyond else ""
    return Check(f"{name} gradients", min(errors), limit, note)


def allow_rounding(check: Check, rounding: Sequence[float], note: str) -> Check:
    """A check of values whose limit is at least twice the greatest error that rounding alone caused."""
    allowed = min(2 * max(rounding), ROUNDING_LIMIT)
    return replace(check, limit=allowed, note=note) if allowed > check.limit else check


def allow_jumps(
    check: Check, jumps: Sequence[float], rounding: Sequence[float], note: str, limit: float = JUMP_LIMIT
) -> Check:
    """A check of gradients whose limit is at least the jump that rounding alone caused, given the `rounding` of logits.

    It is the median jump, at most `limit`; in a chaotic network twice the greatest, without a bound.
    """
    allowed = 2 * max(jumps) if max(rounding) > CHAOS else min(float(np.median(jumps)), limit)
    return replace(check, limit=allowed, note=note) if allowed > check.limit else check
