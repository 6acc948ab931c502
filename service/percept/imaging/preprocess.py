"""A decoded photo → the network's input in pixels, and pixels as a picture.

A decoded photo and a bundle's `Preprocessing` come in; uint8 pixels leave. The graph normalises the pixels itself, so
this module only converts the colours and resamples. It knows no model and no HTTP.
"""

import numpy as np
from PIL import Image

from percept.bundle.preprocessing import Preprocessing
from percept.imaging.geometry import MAX_RESIZED_PIXELS, Box, Geometry, Pixels, place_resized

# `Preprocessing.channels` → Pillow's mode of the pixels. Its conversion to `L` is the luma of ITU-R 601-2, and exact
# for photos that are grey. RGBA is resampled with the colours weighted by their alpha.
MODES = {"GRAY": "L", "RGB": "RGB", "BGR": "RGB", "RGBA": "RGBA"}


def prepare(photo: Image.Image, geometry: Geometry, preprocessing: Preprocessing) -> Pixels:
    """The network's input for a photo: uint8 [H,W,C].

    With `resize_size` it equals what torchvision's and timm's transforms give, bit for bit; else it is resampled once
    from the photo's own pixels, as also where the resized photo would have more than `MAX_RESIZED_PIXELS`. The photo
    may be smaller than `geometry` says, as `decode_reduced` returns it.
    """
    if photo.mode != MODES[preprocessing.channels]:
        photo = photo.convert(MODES[preprocessing.channels])
    if photo.size != (geometry.width, geometry.height):
        geometry = geometry.resized(*photo.size)
    left, top, right, bottom = source = geometry.box
    place = whole = (0, 0, preprocessing.width, preprocessing.height)
    is_inside = left >= 0 and top >= 0 and right <= geometry.width and bottom <= geometry.height
    if preprocessing.resize_size or not is_inside:
        source, place = _place_photo(geometry, preprocessing)
    resampling = Image.Resampling[preprocessing.interpolation.upper()]
    resized = photo.resize((place[2] - place[0], place[3] - place[1]), resampling, box=source)
    if place != whole:
        resized = _crop_or_fill(resized, place[:2], preprocessing)
    return np.asarray(resized).reshape(preprocessing.height, preprocessing.width, -1)


def to_picture(pixels: Pixels) -> Image.Image:
    """Pixels uint8 [H,W,C] as a picture of the mode `L`, `RGB` or `RGBA`, for C of 1, 3 or 4."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _place_photo(geometry: Geometry, preprocessing: Preprocessing) -> tuple[Box, tuple[int, int, int, int]]:
    """The part of the photo that is resized, and its place in the input in whole pixels, beyond which it may extend."""
    if preprocessing.resize_size:
        place = place_resized(geometry.size, preprocessing)
        if (place[2] - place[0]) * (place[3] - place[1]) <= MAX_RESIZED_PIXELS:
            return (0, 0, *geometry.size), place
    left, top, right, bottom = geometry.box
    seen = max(0.0, left), max(0.0, top), min(float(geometry.width), right), min(float(geometry.height), bottom)
    x0, x1 = (round((x - left) / (right - left) * preprocessing.width) for x in seen[::2])
    y0, y1 = (round((y - top) / (bottom - top) * preprocessing.height) for y in seen[1::2])
    return seen, (x0, y0, max(x0 + 1, x1), max(y0 + 1, y1))


def _crop_or_fill(resized: Image.Image, corner: tuple[int, int], preprocessing: Preprocessing) -> Image.Image:
    """Put a picture on a canvas of the input's size and the fill colour: what lies outside is cut off."""
    fill = "rgb({},{},{})".format(*preprocessing.fill)  # Pillow converts it to the mode, opaque in RGBA
    canvas = Image.new(resized.mode, (preprocessing.width, preprocessing.height), fill)
    canvas.paste(resized, corner)
    return canvas
