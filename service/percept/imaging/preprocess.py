"""An RGB photo → the network's input in pixels.

The graph normalises the pixels itself, so this is resampling only: one step from the photo's own pixels, as the rule
of the bundle says. It knows no model and no HTTP.
"""

import numpy as np
from PIL import Image

from percept.bundle.manifest import Preprocessing
from percept.imaging.geometry import Geometry, Pixels


def prepare(photo: Image.Image, geometry: Geometry, rule: Preprocessing) -> Pixels:
    """The network's input for a photo: uint8 [H,W,3] RGB, resampled once from the photo's own pixels.

    The photo may be smaller than `geometry` says, as `decode_reduced` returns it.
    """
    if photo.size != (geometry.width, geometry.height):
        geometry = geometry.resized(*photo.size)
    left, top, right, bottom = geometry.box
    if left >= 0 and top >= 0 and right <= geometry.width and bottom <= geometry.height:
        resampling = Image.Resampling[rule.interpolation.upper()]
        return np.asarray(photo.resize((rule.width, rule.height), resampling, box=geometry.box))
    return _pad(photo, geometry, rule)


def _pad(photo: Image.Image, geometry: Geometry, rule: Preprocessing) -> Pixels:
    """Scale the whole photo to its place inside the input, on a canvas of the fill colour."""
    left, top, right, bottom = geometry.box
    x0, x1 = (round((x - left) / (right - left) * rule.width) for x in (0, geometry.width))
    y0, y1 = (round((y - top) / (bottom - top) * rule.height) for y in (0, geometry.height))
    resampling = Image.Resampling[rule.interpolation.upper()]
    canvas = Image.new("RGB", (rule.width, rule.height), rule.fill)
    canvas.paste(photo.resize((max(1, x1 - x0), max(1, y1 - y0)), resampling), (x0, y0))
    return np.asarray(canvas)
