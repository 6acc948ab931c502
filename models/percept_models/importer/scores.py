"""Scores at the end of a network: what an activation makes of logits, and outputs that are scores already.

Logits and outputs are arrays [N,K] or [N,K,h,w]. Activations are named by their ONNX operators.
"""

from collections.abc import Sequence
from math import inf

import numpy as np

from percept.bundle.manifest import Activation
from percept.errors import BundleError
from percept_models.graph.bounds import Bounds
from percept_models.graph.reader import Array

TOLERANCE = 1e-4  # of what an activation makes of the logits, relative to the greatest magnitude of the output
PERCENT = 100


def output_error(removed: Sequence[str], logits: Array, output: Array) -> float:
    """How far a network's output is from what the removed operators make of the logits, relative to its magnitude.

    `logits` are [N,K] or [N,K,h,w] and the output is of the same form, or [N] or [N,h,w] of an argmax, where the error
    is by how much the logit of its class is below the greatest one, relative to the greatest magnitude.
    """
    logits = logits.astype(np.float64)
    if "ArgMax" in removed:
        chosen = np.take_along_axis(logits, output.astype(np.int64).reshape(len(logits), 1, *logits.shape[2:]), 1)
        return float((logits.max(1, keepdims=True) - chosen).max() / (np.abs(logits).max() or 1))
    expected = activate(logits, removed[0]) if removed else logits
    if expected.shape != output.shape or not np.isfinite(output).all():
        return inf
    return float(np.abs(expected - output).max() / (np.abs(output).max() or 1))


def activate(logits: Array, operator: str) -> Array:
    """What an activation makes of logits, with the classes on axis 1."""
    if operator == "Sigmoid":
        return np.asarray(1 / (1 + np.exp(-logits.clip(-700, 700))))
    shifted = logits - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return np.asarray(log_probabilities if operator == "LogSoftmax" else np.exp(log_probabilities))


def inseparable_activation(limits: Bounds, raw: Array) -> Activation | None:
    """The activation of an output that is a score by operators that cannot be removed; None where it is no score.

    `limits` bound the output, and `raw` are values of it, or none. It is `none` where the output is bounded by [0,1],
    or sums up to 1 over the classes, as a softmax in single operators does; the same in percent. The softmax of the
    logarithms of such scores is the scores.
    """
    low, high = limits
    raw = raw[np.isfinite(raw).all(tuple(range(1, raw.ndim)))]
    if sums_to_one(np.exp(np.minimum(raw, 1.0))):
        return "softmax"
    if (low >= 0 and (high <= 1 or high == PERCENT)) or sums_to_one(raw) or sums_to_one(raw / PERCENT):
        if high == PERCENT and raw.shape[1] == 1:
            raise BundleError(
                "the only output is a percentage: let the network return the logit or probability instead"
            )
        return "none"
    if high > 0 or low > -inf:
        return None
    if raw.shape[1] == 1:
        raise BundleError("the only output is the logarithm of a probability: let the network return the logit instead")
    return "none"


def sums_to_one(scores: Array) -> bool:
    """Whether the scores of several classes are not negative and sum up to 1, in every image and cell."""
    several = len(scores) > 0 and scores.shape[1] > 1 and bool(scores.min() >= 0)
    return several and np.allclose(scores.sum(1), 1, atol=TOLERANCE)


def lies_between_0_and_1(values: Array) -> bool:
    """Whether all values, of which there are some, are from 0 to 1."""
    return values.size > 0 and bool(values.min() >= 0 and values.max() <= 1)
