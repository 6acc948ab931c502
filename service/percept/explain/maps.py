"""Maps of a layer's cells from its activations and gradients. Pure functions: arrays in, one map out.

Letters: A [C,h,w] activations, y the raw logit (or the sum that the seed selects), g = dy/dA [C,h,w],
S_k = sum of A_k over its cells. Every method returns the map before ReLU, float32 [h,w].
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percept.explain.singular_vectors import leading_singular_vectors

Array = NDArray[np.float32]

ROUNDING = 2e-6  # error of a sum, as a share of the magnitudes that it adds


def cam(A: Array, g: Array) -> Array:
    """CAM: sum_k W_k A_k, W_k = sum(g_k): the weight of the class in a linear head behind global average pooling.

    Zhou et al. 2016, arXiv:1512.04150. It is defined behind such a head only.
    """
    return weighted_sum(g.sum((1, 2)), A)


def gradcam(A: Array, g: Array) -> Array:
    """Grad-CAM: sum_k mean(g_k) A_k. Selvaraju et al. 2017, arXiv:1610.02391."""
    return weighted_sum(g.mean((1, 2)), A)


def gradcam_plus_plus(A: Array, g: Array) -> Array:
    """Grad-CAM++: sum_k w_k A_k, w_k = sum relu(g) a, a = g^2 / (2 g^2 + S_k g^3 + 1e-6), 0 where g = 0.

    Chattopadhay et al. 2018, arXiv:1710.11063, with the derivatives of exp(y) as in pytorch-grad-cam.
    """
    S = A.sum((1, 2), keepdims=True)
    a = np.where(g != 0, g**2 / (2 * g**2 + S * g**3 + 1e-6), 0)
    return weighted_sum((np.maximum(g, 0) * a).sum((1, 2)), A)


def xgradcam(A: Array, g: Array) -> Array:
    """XGrad-CAM: sum_k w_k A_k, w_k = sum(g_k A_k) / (S_k + 1e-7). Fu et al. 2020, arXiv:2008.02312."""
    return weighted_sum((g * A).sum((1, 2)) / (A.sum((1, 2)) + 1e-7), A)


def hirescam(A: Array, g: Array) -> Array:
    """HiResCAM: sum_k g_k * A_k, cell by cell. Draelos and Carin 2020, arXiv:2011.08891.

    Before a normalization over the channels the sum is 0 by Euler's theorem, so sums within rounding are set to 0.
    """
    terms = g * A
    total = terms.sum(0)
    return np.asarray(np.where(np.abs(total) > ROUNDING * np.abs(terms).sum(0), total, 0), np.float32)


def layercam(A: Array, g: Array) -> Array:
    """LayerCAM: sum_k relu(g_k) * A_k, cell by cell. Jiang et al. 2021, doi:10.1109/TIP.2021.3089943."""
    return np.asarray((np.maximum(g, 0) * A).sum(0), np.float32)


def eigencam(A: Array) -> Array:
    """Eigen-CAM: X v, X [hw,C] the activations minus each channel's mean, v its first right singular vector.

    Muhammad and Yeasin 2020, arXiv:2008.00299, centred as in pytorch-grad-cam. The sign of v is the one for which the
    map grows with the mean of the channels; if the map does not correlate with that mean, the one with the larger peak.
    """
    X = A.reshape(len(A), -1)
    X = X - X.mean(1, keepdims=True)
    [v] = leading_singular_vectors(X)
    return np.asarray(_orient(v @ X, X.mean(0)).reshape(A.shape[1:]), np.float32)


def eigengradcam(A: Array, g: Array) -> Array:
    """EigenGrad-CAM: X v as in Eigen-CAM, with g * A in the place of A; so the map grows with HiResCAM.

    pytorch-grad-cam's variant of Muhammad and Yeasin 2020, arXiv:2008.00299.
    """
    return eigencam(np.asarray(g * A, np.float32))


def saliency(A: Array, g: Array) -> Array:
    """Saliency at a layer: max_k |g_k|, cell by cell. Simonyan et al. 2014, arXiv:1312.6034."""
    return np.asarray(np.abs(g).max(0), np.float32)


def normalize(raw: Array, quantile: float = 1.0) -> Array:
    """ReLU, then division by the maximum: the map in [0,1]; all 0 if nothing is positive.

    With a `quantile` below 1, that quantile takes the place of the maximum, and larger values become 1: at the image a
    few pixels would outshine all others (Smilkov et al. 2017, arXiv:1706.03825, use 0.99).
    """
    positive = np.maximum(raw, 0)
    peak = np.quantile(positive, quantile) or positive.max()
    return np.minimum(positive / peak, 1) if peak > 0 else positive


def find_peak(heat: Array) -> tuple[int, int] | None:
    """The row and column of the hottest cell, the first of equals; None if no cell is above 0."""
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    return (row, column) if heat[row, column] > 0 else None


def fuse(maps: Sequence[Array]) -> Array:
    """The mean of several layers' normalized maps, each resized to the finest: float32 [max h, max w], in [0,1]."""
    shape = max(len(m) for m in maps), max(m.shape[1] for m in maps)
    return np.asarray(np.mean([resize(m, shape) for m in maps], 0), np.float32)


def resize(values: Array, shape: tuple[int, int], filter: Image.Resampling = Image.Resampling.BILINEAR) -> Array:
    """Resize a map to `shape` (h, w) with its edges kept in place.

    `filter` is bilinear interpolation, or `BOX` for the mean over each new cell.
    """
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize(shape[::-1], filter))


def weighted_sum(w: Array, A: Array) -> Array:
    """sum_k w_k A_k, float32 [h,w]."""
    return np.asarray(np.tensordot(w, A, 1), np.float32)


def _orient(values: Array, mean: Array) -> Array:
    """The map [hw] or its negative: the one that grows with the mean, or else the one with the larger peak."""
    agreement, size = float(values @ mean), float(np.linalg.norm(values) * np.linalg.norm(mean))
    if abs(agreement) <= 1e-5 * size:
        agreement = float(values.max() + values.min())
    return -values if agreement < 0 else values
