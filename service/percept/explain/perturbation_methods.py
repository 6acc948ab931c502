"""TODO: what comes in, what leaves."""

from collections.abc import Iterator
from itertools import count

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percept.explain import maps as maps
from percept.explain import perturbations
from percept.explain.maps import resize, weighted_sum
from percept.explain.perturbations import fade, keep_only, zero_out
from percept.explain.protocol import (
    MethodInput,
    MethodRun,
    NetworkRequest,
    TailRequest,
    compute_y,
    gradient_pass,
)

CELLS = 1024  # asked by reciprocam


CHANNELS = 128  # asked by scorecam


SIDE = 16  # positions of the patch of occlusion along one side


MASKS, GRID, SHOWN = 256, 7, 0.5  # of rise


NOTHING = np.s_[:0]  # no channel at all


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
