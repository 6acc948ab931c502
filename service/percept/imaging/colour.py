"""Decoded images of every Pillow mode → RGB of 8 bits over white, or RGBA.

Pillow converts most modes itself. It clips grey of more than 8 bits, forgets the transparent grey of 16-bit PNG files,
and keeps the transparent colour of a PNG file in the file's own bit depth.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from percept.imaging import tiff

LEVELS_16 = 2**16
# What a sample of a PNG file is multiplied with or shifted by to the 8 bits of Pillow's pixels.
GREY_SCALES = {"L;2": 85, "L;4": 17}
RGB_16 = "RGB;16B"


def scale_transparency(image: ImageFile) -> None:
    """Bring the transparent colour of an opened PNG file to the 8 bits of its pixels.

    Of 16-bit colours the upper 8 bits decide, as Pillow keeps no others.
    """
    rawmode, key = image.tile[0].args if image.tile else None, image.info["transparency"]
    if rawmode in GREY_SCALES:
        image.info["transparency"] = key * GREY_SCALES[rawmode]
    elif rawmode == RGB_16:
        image.info["transparency"] = tuple(value >> 8 for value in key)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image to RGB, transparent pixels over white.

    Grey of 12 or 16 unsigned bits is scaled by its full range, that of other types by the image's own finite extremes:
    NaN and -infinity become the lowest value, infinity the highest.
    """
    image = _to_grey(image) if tiff.is_special_grey(image) else image
    if image.has_transparency_data:
        layer = to_rgba(image)
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def to_rgba(image: Image.Image) -> Image.Image:
    """Convert a decoded image to RGBA, as `to_rgb` but with the alpha of the file, 255 where it has none."""
    image = _to_grey(image) if tiff.is_special_grey(image) else image
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _to_grey(image: Image.Image) -> Image.Image:
    values, full_scale = tiff.read_grey(image)
    grey = _scale_by_extremes(values) if full_scale is None else _scale_to(values, full_scale)
    if tiff.is_white_zero(image):
        grey = 255 - grey
    picture = Image.fromarray(grey)
    if "transparency" in image.info:
        picture.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return picture


def _scale_to(values: NDArray[np.uint16], full_scale: int) -> NDArray[np.uint8]:
    levels = np.arange(LEVELS_16) * (255 / full_scale)
    table: NDArray[np.uint8] = np.minimum(levels.round(), 255).astype(np.uint8)
    return table.take(values)


def _scale_by_extremes(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    scaled = np.nan_to_num(values.astype(np.float64), copy=False, nan=low, posinf=high, neginf=low)
    scaled -= low
    scaled *= 255 / (high - low) if high > low else 0
    return scaled.round(out=scaled).astype(np.uint8)
