"""Colour maps for heat, palettes for masks, and the grey that stands for what the network does not see.

Maps in [0,1] and masks come in; indexed Pillow pictures leave. Heat is quantized to the levels 1..255 of a colour map;
level 0 is reserved for pixels that the network does not see, so that they never look cold. It knows no model and no
HTTP.
"""

import io
from collections.abc import Sequence
from importlib.resources import files

import numpy as np
from PIL import Image

from percept.bundle.preprocessing import Colour
from percept.imaging.geometry import UNSEEN, Map, Pixels

# The rows of `colormaps.png`, a picture of 256 columns, one for each level. The colours are matplotlib's.
COLORMAPS = ("inferno", "magma", "plasma", "viridis", "cividis", "turbo", "jet", "gray")
_TABLES = np.asarray(Image.open(io.BytesIO(files("percept.imaging").joinpath("colormaps.png").read_bytes())))

# The grey level of what the network does not see, in formats without transparency.
GREY = 128


def render_heatmap(heat: Map, colormap: str) -> Image.Image:
    """A map in [0,1] as an indexed picture of the same size; NaN is transparent, or grey in JPEG."""
    return apply_colormap(quantize(heat), colormap)


def scale_channel(channel: Map) -> Map:
    """Scale a channel [h,w] from its minimum and maximum to [0,1]; a constant one is all 0."""
    low, high = float(channel.min()), float(channel.max())
    return (channel - low) / (high - low) if high > low else np.zeros_like(channel)


def quantize(heat: Map) -> Pixels:
    """Quantize heat: [0,1] → 1..255, NaN → 0."""
    scaled = heat * np.float32(254)
    scaled += np.float32(1.5)
    if np.isnan(scaled.sum()):
        np.fmax(scaled, 0, out=scaled)  # of a number and NaN, `fmax` returns the number
    return scaled.astype(np.uint8)


def apply_colormap(levels: Pixels, colormap: str) -> Image.Image:
    """Levels 0..255 as an indexed picture in the colours of a map; level 0 is transparent, its colour grey."""
    picture = Image.fromarray(levels).convert("P")
    colours = _TABLES[COLORMAPS.index(colormap)].copy()
    colours[0] = GREY
    picture.putpalette(colours.tobytes())
    if not levels.all():
        picture.info["transparency"] = 0
    return picture


def class_palette(colours: Sequence[Colour]) -> Pixels:
    """The colours uint8 [256,3] of the labels of a mask: the bundle's, then those of Pascal VOC; `UNSEEN` is grey."""
    table = np.zeros((256, 3), np.uint8)
    for k in range(256):
        table[k] = _voc_colour(k)
    table[: len(colours)] = np.asarray(colours, np.uint8).reshape(-1, 3)
    table[UNSEEN] = GREY
    return table


def flatten(picture: Image.Image) -> Image.Image:
    """The picture as RGB, with grey where it is transparent."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (GREY, GREY, GREY, 255)), layer).convert("RGB")


def _voc_colour(k: int) -> Colour:
    """The Pascal VOC colour of class k: the bits of k, lowest first, go to red, green and blue in turn."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (k >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]
