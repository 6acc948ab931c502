"""A decoded photo → the network's input in pixels, and pixels as a picture.

A decoded photo and a bundle's `Preprocessing` come in; uint8 pixels leave. The graph normalises the pixels itself, so
this module only converts the colours and resamples, in one step from the photo's own pixels. It knows no model and no
HTTP.
"""

import numpy as np
from PIL import Image

from percept.bundle.preprocessing import Preprocessing
from percept.imaging.geometry import Geometry, Pixels

# `Preprocessing.channels` → Pillow's mode of the pixels. Its conversion to `L` is the luma of ITU-R 601-2, and exact
# for photos that are grey. RGBA is resampled with the colours weighted by their alpha.
MODES = {"GRAY": "L", "RGB": "RGB", "BGR": "RGB", "RGBA": "RGBA"}


def prepare(photo: Image.Image, geometry: Geometry, preprocessing: Preprocessing) -> Pixels:
    """The network's input for a photo: uint8 [H,W,C], resampled once from the photo's own pixels.

    The photo may be smaller than `geometry` says, as `decode_reduced` returns it.
    """
    if photo.mode != MODES[preprocessing.channels]:
        photo = photo.convert(MODES[preprocessing.channels])
    if photo.size != (geometry.width, geometry.height):
        geometry = geometry.resized(*photo.size)
    left, top, right, bottom = geometry.box
    if left >= 0 and top >= 0 and right <= geometry.width and bottom <= geometry.height:
        resampling = Image.Resampling[preprocessing.interpolation.upper()]
        resized = photo.resize((preprocessing.width, preprocessing.height), resampling, box=geometry.box)
        return np.asarray(resized).reshape(preprocessing.height, preprocessing.width, -1)
    return _pad(photo, geometry, preprocessing)


def to_picture(pixels: Pixels) -> Image.Image:
    """Pixels uint8 [H,W,C] as a picture of the mode `L`, `RGB` or `RGBA`, for C of 1, 3 or 4."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _pad(photo: Image.Image, geometry: Geometry, preprocessing: Preprocessing) -> Pixels:
    """Scale the whole photo to its place inside the input, on a canvas of the fill colour."""
    left, top, right, bottom = geometry.box
    x0, x1 = (round((x - left) / (right - left) * preprocessing.width) for x in (0, geometry.width))
    y0, y1 = (round((y - top) / (bottom - top) * preprocessing.height) for y in (0, geometry.height))
    resampling = Image.Resampling[preprocessing.interpolation.upper()]
    fill = "rgb({},{},{})".format(*preprocessing.fill)  # Pillow converts it to the mode, opaque in RGBA
    canvas = Image.new(photo.mode, (preprocessing.width, preprocessing.height), fill)
    canvas.paste(photo.resize((max(1, x1 - x0), max(1, y1 - y0)), resampling), (x0, y0))
    return np.asarray(canvas).reshape(preprocessing.height, preprocessing.width, -1)
