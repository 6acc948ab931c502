"""Photos made for tests: a pure colour marker at a known place on grey noise."""

import io

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
# How an upright photo is stored so that a viewer who obeys the EXIF tag sees it upright again.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def marked(
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


def encoded(photo: Image.Image, kind: str = "PNG", orientation: int | None = None, **options: object) -> bytes:
    """A photo in a file format, stored under an EXIF orientation if one is given."""
    stream = io.BytesIO()
    if orientation is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        turn = STORED[orientation]
        photo = photo if turn is None else photo.transpose(turn)
        options["exif"] = exif
    photo.save(stream, kind, **options)
    return stream.getvalue()
