"""TODO: what comes in, what leaves."""

import io
from collections.abc import Sequence
from importlib.resources import files

import numpy as np
from PIL import Image

from percept.bundle.manifest import Colour
from percept.imaging.geometry import UNSEEN, Map, Pixels

COLORMAPS = ("inferno", "magma", "plasma", "viridis", "cividis", "turbo", "jet", "gray")


# What was never seen, where a format has no transparency.
GREY = 128


_TABLES = np.asarray(Image.open(io.BytesIO(files("percept.imaging").joinpath("colormaps.png").read_bytes())))


def render_heatmap(heat: Map, colormap: str) -> Image.Image:
    """A map in [0,1] as an indexed picture of the same size; NaN is transparent, or grey where that cannot be."""
    return apply_colormap(quantize(heat), colormap)


def quantize(heat: Map) -> Pixels:
    """[0,1] → 1..255, NaN → 0."""
    scaled = heat * np.float32(254)
    scaled += np.float32(1.5)
    if np.isnan(scaled.sum()):
        np.fmax(scaled, 0, out=scaled)  # takes the number beside a NaN
    return scaled.astype(np.uint8)


def apply_colormap(levels: Pixels, colormap: str) -> Image.Image:
    picture = Image.fromarray(levels).convert("P")
    colours = _TABLES[COLORMAPS.index(colormap)].copy()
    colours[0] = GREY
    picture.putpalette(colours.tobytes())
    if not levels.all():
        picture.info["transparency"] = 0
    return picture


def class_palette(colours: Sequence[Colour]) -> Pixels:
    """256 colours: those of the bundle, or evenly different ones; the last for what was not seen."""
    table = np.zeros((256, 3), np.uint8)
    for k in range(256):
        table[k] = _voc_colour(k)
    table[: len(colours)] = np.asarray(colours, np.uint8).reshape(-1, 3)
    table[UNSEEN] = GREY
    return table


def _voc_colour(k: int) -> Colour:
    """The Pascal VOC colour of class k: its bits dealt out to red, green and blue, from the highest down."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (k >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


def flatten(picture: Image.Image) -> Image.Image:
    """The picture as RGB, what is transparent in the grey of the unseen."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (GREY, GREY, GREY, 255)), layer).convert("RGB")
