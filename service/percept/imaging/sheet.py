"""Pictures side by side under their names, and the legend that says what the colours of a map mean.

Pictures and texts come in, one RGB picture leaves; drawn with Pillow and its built-in font alone. That font knows
little beyond ASCII, so texts are spelled with what it has. It knows no model and no HTTP.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from percept.imaging.colormaps import flatten, render_heatmap
from percept.imaging.geometry import Map
from percept.imaging.text import BACKGROUND, BRIGHT, MUTED, WELL, draw_text, shorten

MAX_SHEET_PIXELS = 2**24
# A sheet whose columns are free is about this much wider than high: nearly square, with the lean of a slide.
ASPECT = 1.4


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture of a sheet, of any mode and size, with the title above it and the caption below."""

    picture: Image.Image
    title: str
    caption: str = ""


@dataclass(frozen=True)
class SheetLayout:
    """The measures of a sheet in pixels: each cell is a title line, a well for the picture, and a caption line."""

    well: tuple[int, int]
    title: int
    caption: int
    above: int
    below: int
    gap: int
    columns: int
    rows: int

    @property
    def cell(self) -> tuple[int, int]:
        """Width and height of a cell with the gap after it."""
        return self.well[0] + self.gap, self.above + self.well[1] + self.below + self.gap

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet."""
        return self.columns * self.cell[0] + self.gap, self.rows * self.cell[1] + self.gap


def render_sheet(tiles: Sequence[Tile], columns: int | None = None, tile: int = 320) -> Image.Image:
    """The tiles in reading order on a dark ground, as one RGB picture of at most `MAX_SHEET_PIXELS`.

    Each picture is fitted into `tile` x `tile` pixels, proportions kept, small ones enlarged; what is transparent
    becomes the grey of the unseen. `tile` shrinks where the sheet would be too large. Without `columns` the sheet
    is a little wider than high. A text too long for its tile ends in an ellipsis.
    """
    plan = _plan(tiles, columns, tile)
    while tile > 1 and plan.size[0] * plan.size[1] > MAX_SHEET_PIXELS:
        tile = min(tile - 1, int(tile * (MAX_SHEET_PIXELS / (plan.size[0] * plan.size[1])) ** 0.5))
        plan = _plan(tiles, columns, max(1, tile))
    canvas = Image.new("RGB", plan.size, BACKGROUND)
    for place, one in enumerate(tiles):
        row, column = divmod(place, plan.columns)
        _draw(canvas, one, plan, (plan.gap + column * plan.cell[0], plan.gap + row * plan.cell[1]))
    return canvas


def _plan(tiles: Sequence[Tile], columns: int | None, tile: int) -> SheetLayout:
    """Wells as large as the largest fitted picture, and wide enough for a name."""
    fitted = [_fit(one.picture.size, tile) for one in tiles]
    well = max([round(0.6 * tile), *(w for w, _ in fitted)]), max([1, *(h for _, h in fitted)])
    title, caption = max(11, round(tile / 18)), max(10, round(tile / 23))
    above = round(1.5 * title) if any(one.title for one in tiles) else 0
    below = round(1.8 * caption) if any(one.caption for one in tiles) else 0
    gap = max(4, round(tile / 16))
    cell = (well[0] + gap, above + well[1] + below + gap)
    columns = min(columns or _columns(len(tiles), cell[0] / cell[1]), max(1, len(tiles)))
    return SheetLayout(well, title, caption, above, below, gap, columns, -(-len(tiles) // columns))


def _columns(count: int, cell_aspect: float) -> int:
    """The number of columns that gives nearly the wanted shape and leaves few places empty."""

    def badness(columns: int) -> float:
        rows = -(-count // columns)
        return abs(math.log(columns * cell_aspect / rows / ASPECT)) + 2 * (columns * rows - count) / count

    return min(range(1, count + 1), key=badness, default=1)


def _draw(canvas: Image.Image, one: Tile, plan: SheetLayout, corner: tuple[int, int]) -> None:
    (x, y), (width, height), pen = corner, plan.well, ImageDraw.Draw(canvas)
    y += plan.above
    # The longer side of every fitted picture is that of the well.
    picture = _resized(one.picture, _fit(one.picture.size, max(plan.well)))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=WELL)
    canvas.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
    draw_text(pen, (x, y - round(0.5 * plan.title)), shorten(one.title, plan.title, width), plan.title, BRIGHT)
    baseline = y + height + round(1.3 * plan.caption)
    draw_text(pen, (x, baseline), shorten(one.caption, plan.caption, width), plan.caption, MUTED)


def _fit(size: tuple[int, int], tile: int) -> tuple[int, int]:
    scale = tile / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    enlarged = size[0] > picture.width
    filter_ = Image.Resampling.BICUBIC if enlarged else Image.Resampling.LANCZOS
    return flatten(picture).resize(size, filter_, reducing_gap=3)


# The longer side of a tile of a grid, the line above it that names it, and the gap around it, in pixels.
TILE, LINE, GAP = 96, 14, 4


def render_channels(features: Map, colormap: str, count: int) -> Image.Image:
    """The `count` strongest channels of [C,h,w], by their mean magnitude, each scaled to its own range.

    The strongest is at the top left; each tile carries the number of its channel.
    """
    order = np.argsort(-np.abs(features).mean((1, 2)), kind="stable")[:count].tolist()
    columns = math.ceil(len(order) ** 0.5)
    h, w = features.shape[1:]
    size = (max(1, round(TILE * w / max(h, w))), max(1, round(TILE * h / max(h, w))))
    step = (size[0] + GAP, size[1] + LINE + GAP)
    rows = math.ceil(len(order) / columns)
    render_sheet = Image.new("RGB", (columns * step[0] + GAP, rows * step[1] + GAP), (24, 24, 27))
    pen = ImageDraw.Draw(render_sheet)
    for place, k in enumerate(order):
        x, y = GAP + place % columns * step[0], GAP + place // columns * step[1]
        tile = render_heatmap(_stretched(features[k]), colormap).convert("RGB")
        render_sheet.paste(tile.resize(size, Image.Resampling.NEAREST), (x, y + LINE))
        pen.text((x + 1, y), str(k), fill=(228, 228, 231))
    return render_sheet


def _stretched(channel: Map) -> Map:
    low, high = float(channel.min()), float(channel.max())
    return (channel - low) / (high - low) if high > low else np.zeros_like(channel)
