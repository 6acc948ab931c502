"""Synthetic photos: a marker of a pure colour at a known place on grey noise, encoded in any file format."""

import io

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
# The transposition that stores an upright photo under each EXIF orientation.
STORED_TRANSPOSES = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def draw_marker(
    size: tuple[int, int], centre: tuple[float, float], radius: float, colour: tuple[int, int, int] = (255, 0, 0)
) -> Image.Image:
    """A grey photo of `size` (width, height) with a square marker of side 2 * radius around `centre` (x, y)."""
    noise = np.random.default_rng(1).integers(90, 160, (size[1], size[0], 1), np.uint8)
    pixels = np.repeat(noise, 3, axis=2)
    x, y = centre
    left, right = max(0, round(x - radius)), max(1, round(x + radius))
    top, bottom = max(0, round(y - radius)), max(1, round(y + radius))
    pixels[top:bottom, left:right] = colour
    return Image.fromarray(pixels)


def encode_photo(photo: Image.Image, kind: str = "PNG", orientation: int | None = None, **options: object) -> bytes:
    """Encode a photo in a file format, stored under an EXIF orientation if one is given."""
    stream = io.BytesIO()
    if orientation is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        transpose = STORED_TRANSPOSES[orientation]
        photo = photo if transpose is None else photo.transpose(transpose)
        options["exif"] = exif
    photo.save(stream, kind, **options)
    return stream.getvalue()
