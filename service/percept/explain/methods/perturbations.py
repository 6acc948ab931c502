"""The methods that need forward passes of perturbed activations or images, as generators of the protocol.

A `MethodInput` comes in, passes of the tail (Recipro-CAM, Ablation-CAM) or of the whole network (Score-CAM, occlusion,
RISE) are requested, and the map before ReLU leaves, float32 [h,w] in cells of the layer. Letters as in
`percept.explain.methods.protocol`; y(...) is y of other activations or of another image.
"""

from collections.abc import Iterator
from itertools import count

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percept.explain import maps
from percept.explain.maps import resize, weighted_sum
from percept.explain.methods.masks import channel_mask, fade, keep_only, patch_mask, random_mask, zero_out
from percept.explain.methods.protocol import (
    MethodInput,
    MethodRun,
    NetworkRequest,
    TailRequest,
    compute_y,
    gradient_pass,
)

MAX_CELLS = 1024  # of reciprocam: one pass for each
MAX_CHANNELS = 128  # of scorecam: one pass for each
MAX_POSITIONS = 16  # of the patch of occlusion along each side
MASKS = 256  # of rise
MASK_CELLS = 7  # of rise, along each side
SHOWN = 0.5  # of the cells of a mask of rise
NO_CHANNELS = np.s_[:0]


def reciprocam(inputs: MethodInput) -> MethodRun:
    """Recipro-CAM: M_ij = y(A at cell ij, 0 elsewhere) - y(0).

    Byun and Lee 2022, arXiv:2209.14074. Their y is taken after a softmax, and they stretch the map from its minimum to
    its maximum, which hides any constant. Here y(0) is subtracted, so that 0 means no effect; behind average pooling
    and a linear head the map is then CAM / (hw). A layer of more than 1024 cells is divided into at most 1024
    square blocks, as small as possible, and each cell gets its share of its block. Where the tail is linear,
    HiResCAM is the same map.
    """
    A = inputs.A
    if inputs.linear:
        return maps.hirescam(A, (yield from gradient_pass(inputs)).g)
    h, w = A.shape[1:]
    side = next(b for b in count(1) if -(-h // b) * -(-w // b) <= MAX_CELLS)
    blocks = [np.s_[:, i : i + side, j : j + side] for i in range(0, h, side) for j in range(0, w, side)]
    y = yield from compute_y(TailRequest, (keep_only(A, block) for block in (NO_CHANNELS, *blocks)))
    cells = np.zeros((1, h, w), np.float32)
    for block, value in zip(blocks, y[1:] - y[0], strict=True):
        cells[block] = value / cells[block].size
    return cells.reshape(h, w)


def ablationcam(inputs: MethodInput) -> MethodRun:
    """Ablation-CAM: sum_k w_k A_k, w_k = (y - y(A without channel k)) / |y|.

    Desai and Ramaswamy 2020, doi:10.1109/WACV45572.2020.9093360. They divide by y, which is the same where y is
    positive and inverts the map where it is negative. y is computed by the tail, because the trunk may compute in lower
    precision. A channel that is 0 everywhere has the weight 0 and needs no pass. Where the tail is linear, channel k
    adds sum(g_k A_k) to y.
    """
    A = inputs.A
    if inputs.linear:
        at_A = yield from gradient_pass(inputs)
        return weighted_sum((at_A.g * A).sum((1, 2)) / max(abs(at_A.y), 1e-12), A)
    active = np.flatnonzero(A.any((1, 2)))
    y = yield from compute_y(TailRequest, (zero_out(A, k) for k in (NO_CHANNELS, *active)))
    w = np.zeros(len(A), np.float32)
    w[active] = (y[0] - y[1:]) / max(abs(y[0]), 1e-12)
    return weighted_sum(w, A)


def scorecam(inputs: MethodInput) -> MethodRun:
    """Score-CAM: sum_k w_k A_k, w = softmax over k of y(image masked by A_k) / n, A_k resized and scaled to [0,1].

    Wang et al. 2020, arXiv:1910.01279. A mask fades the image to the blank colour. Only the 128 channels with the
    largest mean |A_k| get a pass; the others, and those that are 0 everywhere, have the weight 0. n is the number of
    logits that y adds up: without it one channel would get all the weight of a segmenter's sum.
    """
    A = inputs.A
    strength = np.abs(A).mean((1, 2))
    strongest = np.argsort(-strength, kind="stable")[:MAX_CHANNELS]
    strongest = strongest[strength[strongest] > 0]
    size = inputs.pixels.shape[:2]
    images = (fade(inputs.pixels, channel_mask(A[k], size), inputs.blank) for k in strongest)
    y = yield from compute_y(NetworkRequest, images)
    power = np.exp((y - y.max(initial=-np.inf)) / inputs.terms)
    return weighted_sum(power / power.sum(), A[strongest])


def occlusion(inputs: MethodInput) -> MethodRun:
    """Occlusion: M_ij = y - y(image with a blank patch at position ij).

    Zeiler and Fergus 2014, arXiv:1311.2901. The positions are the cells of the layer, but at most 16 along each side;
    the patch is twice as wide and high as the step from one position to the next. A coarser grid is resized to the
    layer's cells by bilinear interpolation.
    """
    h, w = inputs.A.shape[1:]
    grid = rows, columns = min(h, MAX_POSITIONS), min(w, MAX_POSITIONS)
    size = inputs.pixels.shape[:2]
    masks = (patch_mask(size, i, j, grid) for i in range(rows) for j in range(columns))
    y = yield from compute_y(NetworkRequest, (fade(inputs.pixels, mask, inputs.blank) for mask in masks))
    return resize(np.asarray(inputs.y - y, np.float32).reshape(grid), (h, w))


def rise(inputs: MethodInput) -> MethodRun:
    """RISE: M = mean over i of (y_i - mean y) m_i / 0.5, y_i = y(image masked by m_i), of 256 random masks m_i.

    Petsiuk et al. 2018, arXiv:1806.07421: a mask is a grid of 7 x 7 zeros and ones, enlarged and shifted at random; it
    fades the image to the blank colour. They use y_i alone, which adds a constant and the noise of the masks' coverage.
    A cell of the layer gets the mean over its pixels.
    """
    size, shape, cell_masks = inputs.pixels.shape[:2], inputs.A.shape[1:], []

    def masked_images() -> Iterator[NDArray[np.uint8]]:
        for _ in range(MASKS):
            mask = random_mask(size, MASK_CELLS, SHOWN, inputs.rng)
            cell_masks.append(resize(mask, shape, Image.Resampling.BOX))
            yield fade(inputs.pixels, mask, inputs.blank)

    y = yield from compute_y(NetworkRequest, masked_images())
    return weighted_sum((y - y.mean()) / (MASKS * SHOWN), np.stack(cell_masks))
