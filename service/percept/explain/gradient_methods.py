"""TODO: what comes in, what leaves."""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from percept.explain import maps as maps
from percept.explain.maps import Array, weighted_sum
from percept.explain.protocol import (
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

EVEN, HALVED, NODES, MISSED = 9, 8, 129, 0.005  # of integrated_gradients


SAMPLES, NOISE = 32, 0.15  # of smoothgrad


class Node(NamedTuple):
    """A point t of the way from nothing to A: y there, and the map [h,w] of sum_k A_k g_k."""

    t: float
    y: float
    map: Array


def _along(A: Array, t: NDArray[np.float64]) -> Generator[PassRequest, PassResult, list[Node]]:
    """The nodes at `t` [n]."""
    found: list[Node] = []
    for batch in stack_batches(A * np.float32(one) for one in t):
        answer = yield TailRequest(batch, gradients=True)
        places = t[len(found) :].tolist()
        maps = (gradients_of(answer) * A).sum(1)
        found += [Node(*one) for one in zip(places, answer.y.tolist(), maps, strict=False)]
    return found


def integrated_gradients(scene: MethodInput) -> MethodRun:
    """Integrated gradients at a layer: sum_k A_k * integral over t from 0 to 1 of g_k(t A).

    Sundararajan et al. 2017, arXiv:1703.01365, from activations of 0 by the trapezoidal rule. The cells of the map
    should add up to y - y(0), and between two nodes one knows by how much they do not: from 9 even nodes on the 8
    intervals where that is most are halved, until all together miss less than 0.5 % of y - y(0) and their
    magnitudes less than 5 %, or there are 129 nodes. Where the tail is linear one is enough.
    """
    if scene.linear:
        return maps.hirescam(scene.A, (yield from gradient_pass(scene)).g)
    nodes: list[Node] = []
    new = np.linspace(0, 1, EVEN)
    while True:
        nodes = sorted([*nodes, *(yield from _along(scene.A, new))], key=lambda node: node.t)
        t, y, sums = np.array([(node.t, node.y, node.map.sum()) for node in nodes]).T
        missed = np.diff(y) - np.diff(t) * (sums[:-1] + sums[1:]) / 2
        gained = MISSED * abs(y[-1] - y[0])
        if len(nodes) >= NODES or (abs(missed.sum()) <= gained and np.abs(missed).sum() <= 10 * gained):
            break
        worst = np.argsort(-np.abs(missed), kind="stable")[:HALVED]
        new = (t[worst] + t[worst + 1]) / 2
    width = np.diff(t, prepend=0, append=1).astype(np.float32)
    return weighted_sum((width[:-1] + width[1:]) / 2, np.stack([node.map for node in nodes]))


def smoothgrad(scene: MethodInput) -> MethodRun:
    """SmoothGrad at a layer: mean over e of max_k |g_k(A + e)|, e normal noise of 0.15 (max A - min A), 32 times.

    Smilkov et al. 2017, arXiv:1706.03825, of the saliency of Simonyan et al.
    """
    A = scene.A
    sigma = np.float32(NOISE * (A.max() - A.min()))
    noisy = (A + sigma * scene.rng.standard_normal(A.shape, np.float32) for _ in range(SAMPLES))
    found = yield from mean_over_gradients(noisy, lambda g: np.abs(g).max(1))
    return np.asarray(found, np.float32)
