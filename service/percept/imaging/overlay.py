"""Maps, masks and feature maps into pictures, and pictures and arrays into bytes.

Heat is quantised to the levels 1..255 of a colour map; level 0 is kept for what the network never saw, so that
unseen is never mistaken for cold. It knows no model and no HTTP.
"""

import io
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from percept.bundle.manifest import Colour
from percept.imaging.decode import UNSEEN, Box, Geometry, Map, Pixels, enlarged

COLORMAPS = ("inferno", "magma", "plasma", "viridis", "cividis", "turbo", "jet", "gray")
# The longer side of a tile of a grid, the line above it that names it, and the gap around it, in pixels.
TILE, LINE, GAP = 96, 14, 4
# What was never seen, where a format has no transparency.
GREY = 128
HALVED = [v // 2 for v in range(256)]
# The lines around a receptive field, around the cell whose it is, and outside of both. What is hottest in a colour map
# is yellow, red or white, so that the cell there is cyan.
FIELD, CELL, EDGE, HOTTEST = (255, 255, 255), (255, 214, 10), (0, 0, 0), (34, 211, 238)
STROKE = 1 / 300  # their width, of the longer side
_TABLES = np.asarray(Image.open(io.BytesIO(files("percept.imaging").joinpath("colormaps.png").read_bytes())))

ENCODERS: dict[str, dict[str, Any]] = {
    "jpeg": {"format": "JPEG", "quality": 85},
    # Level 1 takes a fifth of the time of level 6 for a tenth more bytes (overlays of ten photos at 640 x 480).
    "png": {"format": "PNG", "compress_level": 1},
    "webp": {"format": "WEBP", "quality": 85, "method": 0},
}


def encode(picture: Image.Image, name: str) -> bytes:
    """A picture as JPEG, PNG or WebP; a palette is kept by PNG and resolved elsewhere, JPEG leaves transparency out."""
    stream = io.BytesIO()
    if name == "jpeg" and picture.mode in ("P", "RGBA"):
        picture = picture.convert("RGB")
    if name == "webp" and picture.mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    picture.save(stream, **ENCODERS[name])
    return stream.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    """An array in NumPy's own file format, C order."""
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def heatmap(heat: Map, colormap: str) -> Image.Image:
    """A map in [0,1] as an indexed picture of the same size; NaN is transparent, or grey where that cannot be."""
    return _indexed(_levels(heat), colormap)


def overlay(photo: Image.Image, heat: Map, view: Geometry, colormap: str, alpha: float) -> Image.Image:
    """A map [h,w] in [0,1] of a view laid over its photo: what is hot covers it up to `alpha`, what is cold does not.

    What the network never saw is dimmed and grey.
    """
    levels = _levels(enlarged(heat, view))
    # Rising faster than the heat, so that half-hot places are seen to be warm.
    opacity = (np.clip(np.arange(-1, 255) / 254, 0, 1) ** 0.75 * 255 * alpha).round().astype(np.uint8)
    picture, mask = _dimmed(photo, view.seen), Image.fromarray(levels).point(opacity.tolist())
    picture.paste(_indexed(levels, colormap).convert("RGB"), view.seen, mask=mask)
    return picture


def mask_picture(labels: Pixels, palette: Sequence[Colour]) -> Image.Image:
    """A mask as an indexed picture in the palette of the bundle; not seen is transparent."""
    picture = Image.fromarray(labels).convert("P")
    picture.putpalette(_palette(palette).tobytes())
    if (labels == UNSEEN).any():
        picture.info["transparency"] = UNSEEN
    return picture


def mask_overlay(
    photo: Image.Image,
    labels: Pixels,
    palette: Sequence[Colour],
    background: int | None,
    alpha: float,
) -> Image.Image:
    """A mask laid over the photo; the background stays clear, what was never seen is dimmed and grey."""
    opacity = np.full(256, round(alpha * 255), np.uint8)
    opacity[[UNSEEN] if background is None else [UNSEEN, background]] = 0
    picture = _dimmed(photo, Image.fromarray(labels != UNSEEN).getbbox() or (0, 0, 0, 0))
    picture.paste(mask_picture(labels, palette).convert("RGB"), mask=Image.fromarray(opacity[labels]))
    return picture


def grid(features: Map, colormap: str, count: int) -> Image.Image:
    """The `count` strongest channels of [C,h,w], by their mean magnitude, each scaled to its own range.

    The strongest is at the top left; each tile carries the number of its channel.
    """
    order = np.argsort(-np.abs(features).mean((1, 2)), kind="stable")[:count].tolist()
    columns = math.ceil(len(order) ** 0.5)
    h, w = features.shape[1:]
    size = (max(1, round(TILE * w / max(h, w))), max(1, round(TILE * h / max(h, w))))
    step = (size[0] + GAP, size[1] + LINE + GAP)
    rows = math.ceil(len(order) / columns)
    sheet = Image.new("RGB", (columns * step[0] + GAP, rows * step[1] + GAP), (24, 24, 27))
    pen = ImageDraw.Draw(sheet)
    for place, k in enumerate(order):
        x, y = GAP + place % columns * step[0], GAP + place // columns * step[1]
        tile = heatmap(_stretched(features[k]), colormap).convert("RGB")
        sheet.paste(tile.resize(size, Image.Resampling.NEAREST), (x, y + LINE))
        pen.text((x + 1, y), str(k), fill=(228, 228, 231))
    return sheet


def mark(picture: Image.Image, cell: Box, field: Box | None, colour: Colour = CELL) -> None:
    """Outline a cell, and in white what it can see, in place: rectangles of a picture in RGB or RGBA.

    The lines lie outside the rectangles where the picture has room, with dark ones around them.
    """
    for box, tone in ((field, FIELD), (cell, colour)):
        if box is not None:
            _outline(picture, pixels(box, picture.size), tone)


def pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The rectangle of whole pixels of a picture of `size` (width, height) that is nearest to the box, never empty."""
    left, top = min(round(box[0]), size[0] - 1), min(round(box[1]), size[1] - 1)
    return left, top, max(left + 1, round(box[2])), max(top + 1, round(box[3]))


def _outline(picture: Image.Image, box: tuple[int, int, int, int], colour: Colour) -> None:
    pen, line = ImageDraw.Draw(picture), max(1, round(max(picture.size) * STROKE))
    left, top = max(0, box[0] - 2 * line), max(0, box[1] - 2 * line)
    right, bottom = min(picture.width, box[2] + 2 * line) - 1, min(picture.height, box[3] + 2 * line) - 1
    for inset, tone in ((0, EDGE), (line, colour)):
        if right - left >= 2 * inset and bottom - top >= 2 * inset:  # a photo may be thinner than two lines
            pen.rectangle((left + inset, top + inset, right - inset, bottom - inset), outline=tone, width=line)


def _dimmed(photo: Image.Image, seen: tuple[int, int, int, int]) -> Image.Image:
    """A copy of the photo, dark and grey outside the box (left, top, right, bottom) that was seen."""
    if seen == (0, 0, *photo.size):
        return photo.copy()
    picture, (left, top, right, bottom) = photo.copy(), seen
    width, height = photo.size
    for box in ((0, 0, width, top), (0, bottom, width, height), (0, top, left, bottom), (right, top, width, bottom)):
        if box[0] < box[2] and box[1] < box[3]:
            picture.paste(photo.crop(box).convert("L").point(HALVED).convert("RGB"), box)
    return picture


def _stretched(channel: Map) -> Map:
    low, high = float(channel.min()), float(channel.max())
    return (channel - low) / (high - low) if high > low else np.zeros_like(channel)


def _levels(heat: Map) -> Pixels:
    """[0,1] → 1..255, NaN → 0."""
    scaled = heat * np.float32(254)
    scaled += np.float32(1.5)
    if np.isnan(scaled.sum()):
        np.fmax(scaled, 0, out=scaled)  # takes the number beside a NaN
    return scaled.astype(np.uint8)


def _indexed(levels: Pixels, colormap: str) -> Image.Image:
    picture = Image.fromarray(levels).convert("P")
    colours = _TABLES[COLORMAPS.index(colormap)].copy()
    colours[0] = GREY
    picture.putpalette(colours.tobytes())
    if not levels.all():
        picture.info["transparency"] = 0
    return picture


def _palette(colours: Sequence[Colour]) -> Pixels:
    """256 colours: those of the bundle, or evenly different ones; the last for what was not seen."""
    table = np.zeros((256, 3), np.uint8)
    for k in range(256):
        table[k] = _distinct(k)
    table[: len(colours)] = np.asarray(colours, np.uint8).reshape(-1, 3)
    table[UNSEEN] = GREY
    return table


def _distinct(k: int) -> Colour:
    """The Pascal VOC colour of class k: its bits dealt out to red, green and blue, from the highest down."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (k >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]
