"""An RGB photo → the network's input in pixels.

A decoded photo and a bundle's `Preprocessing` come in; uint8 pixels leave. The graph normalises the pixels itself, so
this module only resamples, in one step from the photo's own pixels. It knows no model and no HTTP.
"""

import numpy as np
from PIL import Image

from percept.bundle.manifest import Preprocessing
from percept.imaging.geometry import Geometry, Pixels


def prepare(photo: Image.Image, geometry: Geometry, preprocessing: Preprocessing) -> Pixels:
    """The network's input for a photo: uint8 [H,W,3] RGB, resampled once from the photo's own pixels.

    The photo may be smaller than `geometry` says, as `decode_reduced` returns it.
    """
    if photo.size != (geometry.width, geometry.height):
        geometry = geometry.resized(*photo.size)
    left, top, right, bottom = geometry.box
    if left >= 0 and top >= 0 and right <= geometry.width and bottom <= geometry.height:
        resampling = Image.Resampling[preprocessing.interpolation.upper()]
        return np.asarray(photo.resize((preprocessing.width, preprocessing.height), resampling, box=geometry.box))
    return _pad(photo, geometry, preprocessing)


def _pad(photo: Image.Image, geometry: Geometry, preprocessing: Preprocessing) -> Pixels:
    """Scale the whole photo to its place inside the input, on a canvas of the fill colour."""
    left, top, right, bottom = geometry.box
    x0, x1 = (round((x - left) / (right - left) * preprocessing.width) for x in (0, geometry.width))
    y0, y1 = (round((y - top) / (bottom - top) * preprocessing.height) for y in (0, geometry.height))
    resampling = Image.Resampling[preprocessing.interpolation.upper()]
    canvas = Image.new("RGB", (preprocessing.width, preprocessing.height), preprocessing.fill)
    canvas.paste(photo.resize((max(1, x1 - x0), max(1, y1 - y0)), resampling), (x0, y0))
    return np.asarray(canvas)
