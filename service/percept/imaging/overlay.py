"""Pictures over the photo: heatmaps, masks, and the outlines of a cell and its receptive field.

Photos, maps and masks come in; Pillow pictures of exactly the photo's size leave. In an overlay the part of the photo
that the network does not see is dimmed and grey. It knows no
model and no HTTP.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from percept.bundle.preprocessing import Colour
from percept.imaging.colormaps import apply_colormap, class_palette, quantize
from percept.imaging.geometry import UNSEEN, Box, Geometry, Map, Pixels, project_to_seen

HALF_BRIGHTNESS = [v // 2 for v in range(256)]
# The outlines of a receptive field, of its cell, and of the cell at the peak of a map. The hottest colours of the
# colour maps are yellow, red or white: that cell is cyan.
FIELD_COLOUR, CELL_COLOUR, PEAK_COLOUR = (255, 255, 255), (255, 214, 10), (34, 211, 238)
EDGE = (0, 0, 0)  # the darker line outside each outline
STROKE = 1 / 300  # the width of a line, as a share of the picture's longer side


def overlay_heatmap(photo: Image.Image, heat: Map, geometry: Geometry, colormap: str, alpha: float) -> Image.Image:
    """Lay a map [h,w] in [0,1] over the photo: its opacity rises with the heat, from 0 to `alpha`."""
    levels = quantize(project_to_seen(heat, geometry))
    # The exponent below 1 makes places of medium heat visible.
    opacity = (np.clip(np.arange(-1, 255) / 254, 0, 1) ** 0.75 * 255 * alpha).round().astype(np.uint8)
    picture, mask = _dim_unseen(photo, geometry.seen), Image.fromarray(levels).point(opacity.tolist())
    picture.paste(apply_colormap(levels, colormap).convert("RGB"), geometry.seen, mask=mask)
    return picture


def render_mask(labels: Pixels, palette: Sequence[Colour]) -> Image.Image:
    """A mask as an indexed picture in the bundle's palette; `UNSEEN` is transparent."""
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
    """Lay a mask over the photo with opacity `alpha`; the background class stays transparent."""
    opacity = np.full(256, round(alpha * 255), np.uint8)
    opacity[[UNSEEN] if background is None else [UNSEEN, background]] = 0
    picture = _dim_unseen(photo, Image.fromarray(labels != UNSEEN).getbbox() or (0, 0, 0, 0))
    picture.paste(render_mask(labels, palette).convert("RGB"), mask=Image.fromarray(opacity[labels]))
    return picture


def outline_cell(picture: Image.Image, cell: Box, field: Box | None, colour: Colour = CELL_COLOUR) -> None:
    """Outline a cell, and its receptive field in white, in place, on an RGB or RGBA picture.

    The lines lie outside the boxes where the picture has room, each with a dark line around it.
    """
    for box, line_colour in ((field, FIELD_COLOUR), (cell, colour)):
        if box is not None:
            _outline(picture, pixel_box(box, picture.size), line_colour)


def pixel_box(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box rounded to whole pixels of a picture of `size` (width, height); never empty."""
    left, top = min(round(box[0]), size[0] - 1), min(round(box[1]), size[1] - 1)
    return left, top, max(left + 1, round(box[2])), max(top + 1, round(box[3]))


def _outline(picture: Image.Image, box: tuple[int, int, int, int], colour: Colour) -> None:
    pen, width = ImageDraw.Draw(picture), max(1, round(max(picture.size) * STROKE))
    left, top = max(0, box[0] - 2 * width), max(0, box[1] - 2 * width)
    right, bottom = min(picture.width, box[2] + 2 * width) - 1, min(picture.height, box[3] + 2 * width) - 1
    for inset, line_colour in ((0, EDGE), (width, colour)):
        if right - left >= 2 * inset and bottom - top >= 2 * inset:  # a photo may be thinner than two lines
            corners = (left + inset, top + inset, right - inset, bottom - inset)
            pen.rectangle(corners, outline=line_colour, width=width)


def _dim_unseen(photo: Image.Image, seen: tuple[int, int, int, int]) -> Image.Image:
    """A copy of the photo, dark and grey outside the box `seen` (left, top, right, bottom)."""
    if seen == (0, 0, *photo.size):
        return photo.copy()
    picture, (left, top, right, bottom) = photo.copy(), seen
    width, height = photo.size
    for box in ((0, 0, width, top), (0, bottom, width, height), (0, top, left, bottom), (right, top, width, bottom)):
        if box[0] < box[2] and box[1] < box[3]:
            picture.paste(photo.crop(box).convert("L").point(HALF_BRIGHTNESS).convert("RGB"), box)
    return picture
