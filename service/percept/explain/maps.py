"""Maps out of arrays: what is known of a layer in, one map of its cells out. Pure functions; `methods` asks for more.

Letters: A [C,h,w] activations, y the raw logit (or the sum that the seed selects), g = dy/dA [C,h,w],
S_k = sum of A_k over its cells. Every method returns the map before ReLU, float32 [h,w].
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]

MAX_KRYLOV_VECTORS = 96  # the most steps towards a singular vector
ROUNDING = 2e-6  # of a sum, as a share of the magnitudes that it adds
CONVERGED = 1e-6  # what may be left of G v - s^2 v, as a share of s^2


def cam(A: Array, g: Array) -> Array:
    """CAM: sum_k W_k A_k, W_k = sum(g_k): the weight of the class in a linear head behind global average pooling.

    Zhou et al. 2016, arXiv:1512.04150. It is nothing anywhere else.
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

    Before a normalization over the channels it is 0 by Euler's theorem: what is left by rounding is no map.
    """
    terms = g * A
    found = terms.sum(0)
    return np.asarray(np.where(np.abs(found) > ROUNDING * np.abs(terms).sum(0), found, 0), np.float32)


def layercam(A: Array, g: Array) -> Array:
    """LayerCAM: sum_k relu(g_k) * A_k, cell by cell. Jiang et al. 2021, doi:10.1109/TIP.2021.3089943."""
    return np.asarray((np.maximum(g, 0) * A).sum(0), np.float32)


def eigencam(A: Array) -> Array:
    """Eigen-CAM: X v, X [hw,C] the activations minus each channel's mean, v its first right singular vector.

    Muhammad and Yeasin 2020, arXiv:2008.00299, centred as in pytorch-grad-cam. Of the two signs of v the one by which
    the map goes up with the mean of the channels; where it goes with it neither way, the one of the greater peak.
    """
    X = A.reshape(len(A), -1)
    X = X - X.mean(1, keepdims=True)
    found = _first(X) @ X
    return np.asarray(_orient(found, X.mean(0)).reshape(A.shape[1:]), np.float32)


def eigengradcam(A: Array, g: Array) -> Array:
    """EigenGrad-CAM: Eigen-CAM's X v of g * A in the place of A; its sign is the one that goes up with HiResCAM.

    After Muhammad and Yeasin 2020, arXiv:2008.00299, by pytorch-grad-cam.
    """
    return eigencam(np.asarray(g * A, np.float32))


def saliency(A: Array, g: Array) -> Array:
    """Saliency at a layer: max_k |g_k|, cell by cell. Simonyan et al. 2014, arXiv:1312.6034."""
    return np.asarray(np.abs(g).max(0), np.float32)


GRADIENT_METHODS: dict[str, Callable[[Array, Array], Array]] = {
    "cam": cam,
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "xgradcam": xgradcam,
    "hirescam": hirescam,
    "layercam": layercam,
    "eigengradcam": eigengradcam,
    "saliency": saliency,
}


def normalize(raw: Array, share: float = 1.0) -> Array:
    """The map as it is shown: ReLU, then divided by its maximum, so in [0,1]; all 0 where nothing is positive.

    With a `share` below 1 what stands for the maximum is the quantile of it, and what is beyond is 1: among pixels a
    few would outshine all others (Smilkov et al. 2017, arXiv:1706.03825, take 0.99).
    """
    positive = np.maximum(raw, 0)
    find_peak = np.quantile(positive, share) or positive.max()
    return np.minimum(positive / find_peak, 1) if find_peak > 0 else positive


def find_peak(heat: Array) -> tuple[int, int] | None:
    """The row and column of the hottest cell, the first of equals; None where no cell is above 0."""
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    return (row, column) if heat[row, column] > 0 else None


def fuse(maps: Sequence[Array]) -> Array:
    """The mean of several layers' unit maps, each resized to the finest: float32 [max h, max w], in [0,1]."""
    shape = max(len(m) for m in maps), max(m.shape[1] for m in maps)
    return np.asarray(np.mean([resize(m, shape) for m in maps], 0), np.float32)


def resize(values: Array, shape: tuple[int, int], how: Image.Resampling = Image.Resampling.BILINEAR) -> Array:
    """A map at another `shape` (h, w), its edges where they were: bilinear, or `BOX`, the mean over each new cell."""
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize(shape[::-1], how))


def weighted_sum(w: Array, A: Array) -> Array:
    """sum_k w_k A_k, float32 [h,w]."""
    return np.asarray(np.tensordot(w, A, 1), np.float32)


def _orient(found: Array, mean: Array) -> Array:
    """The map or its negative, whichever goes up with the mean; else whichever has the greater peak."""
    agreement, size = float(found @ mean), float(np.linalg.norm(found) * np.linalg.norm(mean))
    if abs(agreement) <= 1e-5 * size:
        agreement = float(found.max() + found.min())
    return -found if agreement < 0 else found


def _first(X: Array) -> Array:
    """The first left singular vector of X [n,m], of unit length: Krylov vectors of X X^T, then Rayleigh and Ritz.

    Decomposing the whole of 2048 channels takes seconds, this milliseconds. It always begins at the same vector.
    Where the first two singular values are equal the vector is none in particular; of zeros it is anything.
    """
    X = X * np.float32(1 / max(float(np.abs(X).max()), 1e-30))  # or the squares of small gradients would vanish
    q = np.asarray(np.random.default_rng(0).standard_normal(len(X)), np.float32)
    Q, GQ = np.zeros((2, min(len(X), MAX_KRYLOV_VECTORS), len(X)), np.float32)
    for i in range(len(Q)):
        length = np.linalg.norm(q)
        for _ in range(2):  # the second time takes away what rounding has left
            q -= (Q[:i] @ q) @ Q[:i]
        if np.linalg.norm(q) <= 1e-6 * length:
            break
        Q[i] = q / np.linalg.norm(q)
        q = GQ[i] = X @ (Q[i] @ X)
        if i % 8 == 7 and _ritz(Q, GQ)[1] <= CONVERGED:
            break
    return _ritz(Q, GQ)[0]


def _ritz(Q: Array, GQ: Array) -> tuple[Array, float]:
    """The best eigenvector of G among sums of the rows of Q, and how far it is from one, as a share of its value."""
    values, vectors = np.linalg.eigh(Q @ GQ.T)
    vector = vectors[:, -1] @ Q
    residual = vectors[:, -1] @ GQ - values[-1] * vector
    return vector, float(np.linalg.norm(residual) / max(float(values[-1]), 1e-30))
