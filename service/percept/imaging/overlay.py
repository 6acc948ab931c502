"""Maps, masks and feature maps into pictures, and pictures and arrays into bytes.

Heat is quantised to the levels 1..255 of a colour map; level 0 is kept for what the network never saw, so that
unseen is never mistaken for cold. It knows no model and no HTTP.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from percept.bundle.manifest import Colour
from percept.imaging.colormaps import apply_colormap, class_palette, quantize
from percept.imaging.geometry import UNSEEN, Box, Geometry, Map, Pixels, project_to_seen

HALVED = [v // 2 for v in range(256)]
# The lines around a receptive field, around the cell whose it is, and outside of both. What is hottest in a colour map
# is yellow, red or white, so that the cell there is cyan.
FIELD, CELL, EDGE, HOTTEST = (255, 255, 255), (255, 214, 10), (0, 0, 0), (34, 211, 238)
STROKE = 1 / 300  # their width, of the longer side


def overlay_heatmap(photo: Image.Image, heat: Map, view: Geometry, colormap: str, alpha: float) -> Image.Image:
    """A map [h,w] in [0,1] of a view laid over its photo: what is hot covers it up to `alpha`, what is cold does not.

    What the network never saw is dimmed and grey.
    """
    levels = quantize(project_to_seen(heat, view))
    # Rising faster than the heat, so that half-hot places are seen to be warm.
    opacity = (np.clip(np.arange(-1, 255) / 254, 0, 1) ** 0.75 * 255 * alpha).round().astype(np.uint8)
    picture, mask = _dimmed(photo, view.seen), Image.fromarray(levels).point(opacity.tolist())
    picture.paste(apply_colormap(levels, colormap).convert("RGB"), view.seen, mask=mask)
    return picture


def render_mask(labels: Pixels, palette: Sequence[Colour]) -> Image.Image:
    """A mask as an indexed picture in the palette of the bundle; not seen is transparent."""
    picture = Image.fromarray(labels).convert("P")
    picture.putpalette(class_palette(palette).tobytes())
    if (labels == UNSEEN).any():
        picture.info["transparency"] = UNSEEN
    return picture


def overlay_mask(
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
    picture.paste(render_mask(labels, palette).convert("RGB"), mask=Image.fromarray(opacity[labels]))
    return picture


def outline_cell(picture: Image.Image, cell: Box, field: Box | None, colour: Colour = CELL) -> None:
    """Outline a cell, and in white what it can see, in place: rectangles of a picture in RGB or RGBA.

    The lines lie outside the rectangles where the picture has room, with dark ones around them.
    """
    for box, tone in ((field, FIELD), (cell, colour)):
        if box is not None:
            _outline(picture, pixel_box(box, picture.size), tone)


def pixel_box(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
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
