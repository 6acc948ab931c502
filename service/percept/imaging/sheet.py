"""Sheets: pictures side by side on a dark background, with a title above and a caption below each.

`render_sheet` arranges any pictures and texts; `render_channels` shows the channels of a feature map. Both return one
RGB picture. It knows no model and no HTTP.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from percept.imaging.colormaps import flatten, render_heatmap, scale_channel
from percept.imaging.geometry import Map
from percept.imaging.text import BACKGROUND, BRIGHT, MUTED, draw_text, shorten

MAX_SHEET_PIXELS = 2**24
# Width / height of a sheet whose number of columns is free: about that of a slide.
ASPECT = 1.4
FRAME_COLOUR = (39, 39, 42)

# The channels of a feature map: the longer side of a picture, the line above it, the gap around it, in pixels.
CHANNEL_SIDE, CHANNEL_LINE, CHANNEL_GAP = 96, 14, 4
CHANNEL_LABEL = (228, 228, 231)


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture of a sheet, of any mode and size, with the title above it and the caption below."""

    picture: Image.Image
    title: str
    caption: str = ""


@dataclass(frozen=True)
class SheetLayout:
    """The measures of a sheet in pixels: a grid of cells with a gap around each.

    A cell is a title line `above` pixels high, a `frame` (width, height) for the picture, and a caption line `below`
    pixels high.
    """

    frame: tuple[int, int]
    above: int
    below: int
    gap: int
    columns: int
    rows: int

    @property
    def pitch(self) -> tuple[int, int]:
        """The distance (x, y) from one cell to the next."""
        return self.frame[0] + self.gap, self.above + self.frame[1] + self.below + self.gap

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet."""
        return self.columns * self.pitch[0] + self.gap, self.rows * self.pitch[1] + self.gap

    def create_canvas(self) -> Image.Image:
        """An empty sheet of the size that the layout needs."""
        return Image.new("RGB", self.size, BACKGROUND)

    def corner(self, index: int) -> tuple[int, int]:
        """The top left corner (x, y) of a cell, counted row by row."""
        row, column = divmod(index, self.columns)
        return self.gap + column * self.pitch[0], self.gap + row * self.pitch[1]


def render_sheet(tiles: Sequence[Tile], columns: int | None = None, side: int = 320) -> Image.Image:
    """The tiles row by row as one RGB picture of at most `MAX_SHEET_PIXELS`.

    Each picture is scaled to fit into `side` x `side` pixels, with its aspect ratio kept; transparent pixels become
    grey. `side` shrinks where the sheet would be too large. Without `columns` the sheet's aspect ratio is near
    `ASPECT`. Texts too long for their tile end in an ellipsis.
    """
    layout = _create_layout(tiles, columns, side)
    while side > 1 and layout.size[0] * layout.size[1] > MAX_SHEET_PIXELS:
        side = min(side - 1, int(side * (MAX_SHEET_PIXELS / (layout.size[0] * layout.size[1])) ** 0.5))
        layout = _create_layout(tiles, columns, max(1, side))
    canvas = layout.create_canvas()
    for index, tile in enumerate(tiles):
        _draw_tile(canvas, tile, layout, layout.corner(index), max(1, side))
    return canvas


def render_channels(features: Map, colormap: str, count: int) -> Image.Image:
    """The `count` channels of [C,h,w] with the greatest mean magnitude, each scaled to its own range.

    The strongest is at the top left; the number of the channel stands above each.
    """
    order = np.argsort(-np.abs(features).mean((1, 2)), kind="stable")[:count].tolist()
    columns = math.ceil(len(order) ** 0.5)
    h, w = features.shape[1:]
    frame = max(1, round(CHANNEL_SIDE * w / max(h, w))), max(1, round(CHANNEL_SIDE * h / max(h, w)))
    layout = SheetLayout(frame, CHANNEL_LINE, 0, CHANNEL_GAP, columns, math.ceil(len(order) / columns))
    canvas = layout.create_canvas()
    pen = ImageDraw.Draw(canvas)
    for index, k in enumerate(order):
        x, y = layout.corner(index)
        picture = render_heatmap(scale_channel(features[k]), colormap).convert("RGB")
        canvas.paste(picture.resize(layout.frame, Image.Resampling.NEAREST), (x, y + layout.above))
        pen.text((x + 1, y), str(k), fill=CHANNEL_LABEL)
    return canvas


def _create_layout(tiles: Sequence[Tile], columns: int | None, side: int) -> SheetLayout:
    """Frames as large as the largest scaled picture, and wide enough for a title."""
    sizes = [_fit(tile.picture.size, side) for tile in tiles]
    frame = max([round(0.6 * side), *(w for w, _ in sizes)]), max([1, *(h for _, h in sizes)])
    above = round(1.5 * _title_size(side)) if any(tile.title for tile in tiles) else 0
    below = round(1.8 * _caption_size(side)) if any(tile.caption for tile in tiles) else 0
    gap = max(4, round(side / 16))
    cell_aspect = (frame[0] + gap) / (above + frame[1] + below + gap)
    columns = min(columns or _choose_columns(len(tiles), cell_aspect), max(1, len(tiles)))
    return SheetLayout(frame, above, below, gap, columns, -(-len(tiles) // columns))


def _title_size(side: int) -> int:
    return max(11, round(side / 18))


def _caption_size(side: int) -> int:
    return max(10, round(side / 23))


def _choose_columns(count: int, cell_aspect: float) -> int:
    """The number of columns that gives an aspect ratio near `ASPECT` and leaves few cells empty."""

    def cost(columns: int) -> float:
        rows = -(-count // columns)
        return abs(math.log(columns * cell_aspect / rows / ASPECT)) + 2 * (columns * rows - count) / count

    return min(range(1, count + 1), key=cost, default=1)


def _draw_tile(canvas: Image.Image, tile: Tile, layout: SheetLayout, corner: tuple[int, int], side: int) -> None:
    (x, y), (width, height), pen = corner, layout.frame, ImageDraw.Draw(canvas)
    y += layout.above
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=FRAME_COLOUR)
    picture = _resize(tile.picture, _fit(tile.picture.size, side))
    canvas.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
    title_size, caption_size = _title_size(side), _caption_size(side)
    draw_text(pen, (x, y - round(0.5 * title_size)), shorten(tile.title, title_size, width), title_size, BRIGHT)
    baseline = y + height + round(1.3 * caption_size)
    draw_text(pen, (x, baseline), shorten(tile.caption, caption_size, width), caption_size, MUTED)


def _fit(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The size (width, height) scaled so that its longer side is `side`."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resize(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    enlarged = size[0] > picture.width
    resampling = Image.Resampling.BICUBIC if enlarged else Image.Resampling.LANCZOS
    return flatten(picture).resize(size, resampling, reducing_gap=3)
