"""Class-activation maps: the activations of a layer and their gradients in, one map out. Pure functions of arrays.

Letters: A [C,h,w] activations, y the raw logit (or the sum that the seed selects), g = dy/dA [C,h,w],
S_k = sum of A_k over its cells. Every method returns the map before ReLU, float32 [h,w].
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Method = Callable[[Array, Array], Array]


def gradcam(A: Array, g: Array) -> Array:
    """Grad-CAM: sum_k mean(g_k) A_k. Selvaraju et al. 2017, arXiv:1610.02391."""
    return _weigh(g.mean((1, 2)), A)


def gradcam_plus_plus(A: Array, g: Array) -> Array:
    """Grad-CAM++: sum_k w_k A_k, w_k = sum relu(g) a, a = g^2 / (2 g^2 + S_k g^3 + 1e-6), 0 where g = 0.

    Chattopadhay et al. 2018, arXiv:1710.11063, with the derivatives of exp(y) as in pytorch-grad-cam.
    """
    S = A.sum((1, 2), keepdims=True)
    a = np.where(g != 0, g**2 / (2 * g**2 + S * g**3 + 1e-6), 0)
    return _weigh((np.maximum(g, 0) * a).sum((1, 2)), A)


def xgradcam(A: Array, g: Array) -> Array:
    """XGrad-CAM: sum_k w_k A_k, w_k = sum(g_k A_k) / (S_k + 1e-7). Fu et al. 2020, arXiv:2008.02312."""
    return _weigh((g * A).sum((1, 2)) / (A.sum((1, 2)) + 1e-7), A)


def hirescam(A: Array, g: Array) -> Array:
    """HiResCAM: sum_k g_k * A_k, cell by cell. Draelos and Carin 2020, arXiv:2011.08891."""
    return np.asarray((g * A).sum(0), np.float32)


def layercam(A: Array, g: Array) -> Array:
    """LayerCAM: sum_k relu(g_k) * A_k, cell by cell. Jiang et al. 2021, doi:10.1109/TIP.2021.3089943."""
    return np.asarray((np.maximum(g, 0) * A).sum(0), np.float32)


METHODS: dict[str, Method] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "xgradcam": xgradcam,
    "hirescam": hirescam,
    "layercam": layercam,
}


def unit(raw: Array) -> Array:
    """The map as it is shown: ReLU, then divided by its maximum, so in [0,1]; all 0 where nothing is positive."""
    positive = np.maximum(raw, 0)
    peak = positive.max()
    return positive / peak if peak > 0 else positive


def _weigh(w: Array, A: Array) -> Array:
    return np.asarray(np.tensordot(w, A, 1), np.float32)
