"""METHODS: how a heatmap is made, each a generator that asks for work and does none of it.

A run of a method yields asks, gets their answers, and returns the map before ReLU, float32 [h,w] in cells of the
layer. Who drives it applies the seed, keeps the deadline, and may close it at any yield: a method knows no class, no
network and no time. What an ask answers is y, the sum of seed * logits, one for each row.

Letters: A [C,h,w] activations, y of the image as it is, g = dy/dA, y(...) what y would be of something else. In every
map 0 means that a place says nothing about y: nothing is added that only a stretch from minimum to maximum would hide.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import wraps
from itertools import count
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percept.explain import maps as maps
from percept.explain import perturbations
from percept.explain.maps import Array, resize, weighted_sum
from percept.explain.perturbations import fade, keep_only, zero_out
from percept.explain.protocol import (
    MethodInput,
    MethodRun,
    NetworkRequest,
    PassRequest,
    PassResult,
    TailRequest,
    compute_y,
    gradient_pass,
    gradients_of,
    mean_over_gradients,
    stack_batches,
)

CELLS = 1024  # asked by reciprocam
CHANNELS = 128  # asked by scorecam
SIDE = 16  # positions of the patch of occlusion along one side
EVEN, HALVED, NODES, MISSED = 9, 8, 129, 0.005  # of integrated_gradients
SAMPLES, NOISE = 32, 0.15  # of smoothgrad
MASKS, GRID, SHOWN = 256, 7, 0.5  # of rise
NOTHING = np.s_[:0]  # no channel at all


Needs = Literal["activations", "gradients", "tail", "image"]


@dataclass(frozen=True)
class Method:
    """A row of `METHODS`.

    `needs` says what `run` asks for: nothing but the activations, the tail with gradients, the tail forward, or the
    whole network; `classes` whether its map is about y at all; `linear` whether it is defined only where the tail is
    linear with one weight per channel, which who drives it must see to; `alone` whether it shows g without A, and so
    nothing where the tail is linear; `pixels` whether it means something at the image, whose channels are no features.
    """

    run: Callable[[MethodInput], MethodRun]
    needs: Needs
    paper: str
    classes: bool = True
    linear: bool = False
    alone: bool = False
    pixels: bool = False


# From activations, with or without one gradient


def _from_activations(act: Callable[[Array], Array]) -> Callable[[MethodInput], MethodRun]:
    """The run that asks for nothing."""

    @wraps(act)
    def run(scene: MethodInput) -> MethodRun:
        yield from ()
        return act(scene.A)

    return run


def _from_gradients(act: Callable[[Array, Array], Array]) -> Callable[[MethodInput], MethodRun]:
    """The run that asks for the gradients of the image as it is and nothing else."""

    @wraps(act)
    def run(scene: MethodInput) -> MethodRun:
        return act(scene.A, (yield from gradient_pass(scene)).g)

    return run


# From many gradients


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


# From forward passes of the tail


def reciprocam(scene: MethodInput) -> MethodRun:
    """Recipro-CAM: M_ij = y(A only at cell ij, 0 elsewhere) - y(0).

    Byun and Lee 2022, arXiv:2209.14074. Their y is after a softmax, and their map is stretched from its minimum, which
    hides any constant; here y(0) is taken away, so that 0 says nothing and behind average pooling and a linear head
    the map is CAM / (hw). Of more than 1024 cells it is square blocks that are left alone, the smallest that are few
    enough, and each cell gets its share. Where the tail is linear y of a cell is what HiResCAM says.
    """
    A = scene.A
    if scene.linear:
        return maps.hirescam(A, (yield from gradient_pass(scene)).g)
    h, w = A.shape[1:]
    side = next(b for b in count(1) if -(-h // b) * -(-w // b) <= CELLS)
    blocks = [np.s_[:, i : i + side, j : j + side] for i in range(0, h, side) for j in range(0, w, side)]
    y = yield from compute_y(TailRequest, (keep_only(A, block) for block in (NOTHING, *blocks)))
    found = np.zeros((1, h, w), np.float32)
    for block, value in zip(blocks, y[1:] - y[0], strict=True):
        found[block] = value / found[block].size
    return found.reshape(h, w)


def ablationcam(scene: MethodInput) -> MethodRun:
    """Ablation-CAM: sum_k w_k A_k, w_k = (y - y(A without channel k)) / |y|.

    Desai and Ramaswamy 2020, doi:10.1109/WACV45572.2020.9093360, who divide by y: of the same sign where y is positive,
    and where it is negative the map would say the opposite. y is the tail's own, which may differ from that of a trunk
    in fewer bits. Channels that are 0 everywhere are not asked: without them nothing changes. Where the tail is linear
    what a channel adds to y is sum(g_k A_k).
    """
    A = scene.A
    if scene.linear:
        now = yield from gradient_pass(scene)
        return weighted_sum((now.g * A).sum((1, 2)) / max(abs(now.y), 1e-12), A)
    alive = np.flatnonzero(A.any((1, 2)))
    y = yield from compute_y(TailRequest, (zero_out(A, k) for k in (NOTHING, *alive)))
    w = np.zeros(len(A), np.float32)
    w[alive] = (y[0] - y[1:]) / max(abs(y[0]), 1e-12)
    return weighted_sum(w, A)


# From forward passes of the whole network


def scorecam(scene: MethodInput) -> MethodRun:
    """Score-CAM: sum_k w_k A_k, w = softmax over k of y(image masked by A_k) / n, A_k enlarged and scaled to [0,1].

    Wang et al. 2020, arXiv:1910.01279. A mask fades the image to the blank colour. Only the 128 channels of the
    greatest mean |A_k| are asked, the others weigh 0, and channels that are 0 everywhere are never asked. n is how many
    logits y adds up: of a segmenter's sum one channel would have all the weight.
    """
    A = scene.A
    strength = np.abs(A).mean((1, 2))
    strong = np.argsort(-strength, kind="stable")[:CHANNELS]
    strong = strong[strength[strong] > 0]
    size = scene.pixels.shape[:2]
    y = yield from compute_y(
        NetworkRequest, (fade(scene.pixels, perturbations.channel_mask(A[k], size), scene.blank) for k in strong)
    )
    power = np.exp((y - y.max(initial=-np.inf)) / scene.terms)
    return weighted_sum(power / power.sum(), A[strong])


def occlusion(scene: MethodInput) -> MethodRun:
    """Occlusion: M_ij = y - y(image with a blank patch on position ij).

    Zeiler and Fergus 2014, arXiv:1311.2901. The positions are the cells of the layer, or of a grid of 16 where there
    are more along a side; the patch is twice as wide and high as the step from one to the next. A coarser grid is
    enlarged to the layer's cells by bilinear interpolation.
    """
    h, w = scene.A.shape[1:]
    rows, columns = min(h, SIDE), min(w, SIDE)
    size, grid = scene.pixels.shape[:2], (rows, columns)
    masks = (perturbations.patch_mask(size, i, j, grid) for i in range(rows) for j in range(columns))
    y = yield from compute_y(NetworkRequest, (fade(scene.pixels, mask, scene.blank) for mask in masks))
    return resize(np.asarray(scene.y - y, np.float32).reshape(rows, columns), (h, w))


def rise(scene: MethodInput) -> MethodRun:
    """RISE: M = mean over i of (y_i - mean y) m_i / 0.5, y_i = y(image masked by m_i), of 256 random masks m_i.

    Petsiuk et al. 2018, arXiv:1806.07421: a mask is a grid of 7 x 7 zeros and ones, enlarged and shifted at random; it
    fades the image to the blank colour. Theirs has y_i alone, which adds a constant and the noise of its coverage. A
    cell of the layer gets the mean over its pixels.
    """
    shape, cells = scene.A.shape[1:], []

    def images() -> Iterator[NDArray[np.uint8]]:
        for _ in range(MASKS):
            mask = perturbations.random_mask(scene.pixels.shape[:2], GRID, SHOWN, scene.rng)
            cells.append(resize(mask, shape, Image.Resampling.BOX))
            yield fade(scene.pixels, mask, scene.blank)

    y = yield from compute_y(NetworkRequest, images())
    return weighted_sum((y - y.mean()) / (MASKS * SHOWN), np.stack(cells))


METHODS: dict[str, Method] = {
    "cam": Method(_from_gradients(maps.cam), "gradients", "Zhou 2016, arXiv:1512.04150", linear=True),
    "gradcam": Method(_from_gradients(maps.gradcam), "gradients", "Selvaraju 2017, arXiv:1610.02391"),
    "gradcam++": Method(_from_gradients(maps.gradcam_plus_plus), "gradients", "Chattopadhay 2018, arXiv:1710.11063"),
    "xgradcam": Method(_from_gradients(maps.xgradcam), "gradients", "Fu 2020, arXiv:2008.02312"),
    "hirescam": Method(_from_gradients(maps.hirescam), "gradients", "Draelos 2020, arXiv:2011.08891"),
    "layercam": Method(_from_gradients(maps.layercam), "gradients", "Jiang 2021, doi:10.1109/TIP.2021.3089943"),
    "eigencam": Method(
        _from_activations(maps.eigencam), "activations", "Muhammad 2020, arXiv:2008.00299", classes=False
    ),
    "eigengradcam": Method(_from_gradients(maps.eigengradcam), "gradients", "Muhammad 2020, arXiv:2008.00299"),
    "reciprocam": Method(reciprocam, "tail", "Byun 2022, arXiv:2209.14074"),
    "ablationcam": Method(ablationcam, "tail", "Desai 2020, doi:10.1109/WACV45572.2020.9093360"),
    "scorecam": Method(scorecam, "image", "Wang 2020, arXiv:1910.01279"),
    "saliency": Method(
        _from_gradients(maps.saliency), "gradients", "Simonyan 2014, arXiv:1312.6034", alone=True, pixels=True
    ),
    "integrated_gradients": Method(
        integrated_gradients, "gradients", "Sundararajan 2017, arXiv:1703.01365", pixels=True
    ),
    "smoothgrad": Method(smoothgrad, "gradients", "Smilkov 2017, arXiv:1706.03825", alone=True, pixels=True),
    "occlusion": Method(occlusion, "image", "Zeiler 2014, arXiv:1311.2901", pixels=True),
    "rise": Method(rise, "image", "Petsiuk 2018, arXiv:1806.07421", pixels=True),
}
