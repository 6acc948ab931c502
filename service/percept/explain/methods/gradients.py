"""The methods that need several gradients: integrated gradients and SmoothGrad, as generators of the protocol.

A `MethodInput` comes in, passes of the tail with gradients are requested, and the map before ReLU leaves, float32
[h,w] in cells of the layer. Letters as in `percept.explain.methods.protocol`; y(B) is y at other activations B.
"""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from percept.explain import maps
from percept.explain.maps import Array, weighted_sum
from percept.explain.methods.protocol import (
    MethodInput,
    MethodRun,
    PassRequest,
    PassResult,
    TailRequest,
    gradient_pass,
    gradients_of,
    mean_over_gradients,
    stack_batches,
)

# Of integrated gradients.
FIRST_NODES = 9
HALVED_INTERVALS = 8  # in each round
MAX_NODES = 129
TOLERANCE = 0.005  # of the errors' sum, as a share of y - y(0); ten times that of the sum of their magnitudes

# Of SmoothGrad.
SAMPLES = 32
NOISE = 0.15  # sigma, as a share of max A - min A


class Node(NamedTuple):
    """A point t in [0,1] on the line from 0 to A: y(t A), and the map [h,w] of sum_k A_k g_k(t A)."""

    t: float
    y: float
    map: Array


def integrated_gradients(inputs: MethodInput) -> MethodRun:
    """Integrated gradients at a layer: sum_k A_k * integral over t from 0 to 1 of g_k(t A).

    Sundararajan et al. 2017, arXiv:1703.01365, from activations of 0, by the trapezoidal rule. The cells of the map
    should add up to y - y(0), and the error of each interval between two nodes is known. From 9 evenly spaced nodes on,
    the 8 intervals with the largest errors are halved, until the errors add up to less than 0.5 % of y - y(0) and their
    magnitudes to less than 5 %, or there are 129 nodes. Where the tail is linear, one gradient is enough.
    """
    if inputs.linear:
        return maps.hirescam(inputs.A, (yield from gradient_pass(inputs)).g)
    nodes: list[Node] = []
    new = np.linspace(0, 1, FIRST_NODES)
    while True:
        nodes = sorted([*nodes, *(yield from _nodes_at(new, inputs.A))], key=lambda node: node.t)
        t, errors = np.array([node.t for node in nodes]), _interval_errors(nodes)
        if len(nodes) >= MAX_NODES or _is_accurate(errors, nodes[-1].y - nodes[0].y):
            break
        worst = np.argsort(-np.abs(errors), kind="stable")[:HALVED_INTERVALS]
        new = (t[worst] + t[worst + 1]) / 2
    width = np.diff(t, prepend=0, append=1).astype(np.float32)
    return weighted_sum(np.asarray((width[:-1] + width[1:]) / 2, np.float32), np.stack([node.map for node in nodes]))


def smoothgrad(inputs: MethodInput) -> MethodRun:
    """SmoothGrad at a layer: mean over e of max_k |g_k(A + e)|, e normal noise of 0.15 (max A - min A), 32 samples.

    Smilkov et al. 2017, arXiv:1706.03825, of the saliency of Simonyan et al.
    """
    A = inputs.A
    sigma = np.float32(NOISE * (A.max() - A.min()))
    noisy = (A + sigma * inputs.rng.standard_normal(A.shape, np.float32) for _ in range(SAMPLES))
    saliency = yield from mean_over_gradients(noisy, lambda g: np.abs(g).max(1))
    return np.asarray(saliency, np.float32)


def _nodes_at(t: NDArray[np.float64], A: Array) -> Generator[PassRequest, PassResult, list[Node]]:
    """The nodes at `t` [n]."""
    nodes: list[Node] = []
    for batch in stack_batches(A * np.float32(one) for one in t):
        result = yield TailRequest(batch, gradients=True)
        products = (gradients_of(result) * A).sum(1)
        nodes += [Node(*node) for node in zip(t[len(nodes) :].tolist(), result.y.tolist(), products, strict=False)]
    return nodes


def _interval_errors(nodes: list[Node]) -> NDArray[np.float64]:
    """How much y grows between neighbouring nodes beyond what the trapezoidal rule says, for each interval."""
    t, y, sums = np.array([(node.t, node.y, node.map.sum()) for node in nodes]).T
    return np.asarray(np.diff(y) - np.diff(t) * (sums[:-1] + sums[1:]) / 2)


def _is_accurate(errors: NDArray[np.float64], growth: float) -> bool:
    """Whether the errors are small beside the growth y - y(0), together and one by one."""
    limit = TOLERANCE * abs(growth)
    return bool(abs(errors.sum()) <= limit and np.abs(errors).sum() <= 10 * limit)
