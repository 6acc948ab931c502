"""TODO: what comes in, what leaves."""

import numpy as np
from PIL import Image

from percept.bundle.manifest import Preprocessing
from percept.imaging.geometry import Geometry, Pixels


def prepare(photo: Image.Image, view: Geometry, rule: Preprocessing) -> Pixels:
    """The network's input for a photo: uint8 [H,W,3] RGB, by one resampling from the photo's own pixels.

    The photo may have been decoded smaller than `view` says.
    """
    if photo.size != view.size:
        view = view.resized(*photo.size)
    left, top, right, bottom = view.box
    size = (rule.width, rule.height)
    filter_ = Image.Resampling[rule.interpolation.upper()]
    if left >= 0 and top >= 0 and right <= view.width and bottom <= view.height:
        return np.asarray(photo.resize(size, filter_, box=view.box))
    # Padding: the whole photo is scaled to its place inside the input.
    x0, x1 = (round((x - left) / (right - left) * rule.width) for x in (0, view.width))
    y0, y1 = (round((y - top) / (bottom - top) * rule.height) for y in (0, view.height))
    canvas = Image.new("RGB", size, rule.fill)
    canvas.paste(photo.resize((max(1, x1 - x0), max(1, y1 - y0)), filter_), (x0, y0))
    return np.asarray(canvas)
