"""How well a map locates the object of a photo: the pointing game and the energy inside the object.

A map, its `Geometry` and an `ObjectMask` come in, two numbers leave. It knows no network and no file.
"""

from typing import NamedTuple

import numpy as np

from percept.evaluation.photos import ObjectMask
from percept.imaging.geometry import Geometry, Map, project_to_photo


class Localization(NamedTuple):
    """`pointing`: whether the peak lies in the object; `energy`: the share of the heat inside it. None if unknown."""

    pointing: bool | None
    energy: float | None


def localize(heat: Map, geometry: Geometry, mask: ObjectMask | None) -> Localization:
    """Compare a map [h,w] in [0,1] with the mask of the object in the photo.

    The pointing game of Zhang et al. 2016, arXiv:1608.00507, without their margin of 15 pixels, at the centre of the
    hottest cell; and the energy of Wang et al. 2020, arXiv:1910.01279, over the object instead of its box. Pixels that
    are unknown, or that the network does not see, are left out. A map of zeros misses. Both are None without a mask,
    or if the network sees nothing of the object.
    """
    H = project_to_photo(heat, geometry)
    if mask is None or not (mask.inside & mask.known & ~np.isnan(H)).any():
        return Localization(None, None)
    H = np.where(mask.known, np.nan_to_num(H), 0)
    energy = float(H[mask.inside].sum() / max(H.sum(), 1e-30))
    return Localization(_points_inside(heat, geometry, mask), energy)


def _points_inside(heat: Map, geometry: Geometry, mask: ObjectMask) -> bool | None:
    if not heat.max() > 0:
        return False
    shape = (heat.shape[0], heat.shape[1])
    row, column = divmod(int(heat.argmax()), shape[1])
    x, y = geometry.to_photo(row + 0.5, column + 0.5, shape)
    pixel = min(int(y), geometry.height - 1), min(int(x), geometry.width - 1)
    return bool(mask.inside[pixel]) if mask.known[pixel] else None
