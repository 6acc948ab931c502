"""Pictures side by side under their names, and the legend that says what the colours of a map mean.

Pictures and texts come in, one RGB picture leaves; drawn with Pillow and its built-in font alone. That font knows
little beyond ASCII, so texts are spelled with what it has. It knows no model and no HTTP.
"""

import math
import unicodedata
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from percept.imaging.overlay import GREY, heatmap

MAX_SHEET_PIXELS = 2**24
# A sheet whose columns are free is about this much wider than high: nearly square, with the lean of a slide.
ASPECT = 1.4
# Narrower than this a legend cannot be read.
MIN_LEGEND_WIDTH = 240
LONGEST_TEXT = 400
# Of a text's size. The font's own space, 0.22, nearly vanishes in small text.
SPACE = 0.3

BACKGROUND, WELL, EDGE = (24, 24, 27), (39, 39, 42), (82, 82, 91)
BRIGHT, MUTED = (244, 244, 245), (172, 172, 180)

# What the font lacks and Unicode does not decompose, by its spelling.
_SPELT = (
    {"-": "‐‒–—−", "·": "•∙⋅", "x": "×", "/": "÷", "->": "→", "<-": "←", "<=": "≤", ">=": "≥", "~": "≈", "'": "′"}
    | {
        '"': "„",
        "ss": "ß",
        "ae": "æ",
        "Ae": "Æ",
        "oe": "œ",
        "Oe": "Œ",
        "o": "ø",
        "O": "Ø",
        "l": "ł",
        "L": "Ł",
        "i": "ı",
    }
    | {"d": "đð∂", "D": "ĐÐ", "th": "þ", "Th": "Þ", "alpha": "α", "beta": "β", "gamma": "γ", "u": "μ", "Sum": "Σ∑"}
)
SPELLINGS = {character: spelling for spelling, characters in _SPELT.items() for character in characters}
# What keeps 10² and 3½ from becoming 102 and 31/2.
MARKS = {"<super>": "^", "<fraction>": " "}

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture of a sheet, of any mode and size, with the title above it and the caption below."""

    picture: Image.Image
    title: str
    caption: str = ""


@dataclass(frozen=True)
class Plan:
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


def sheet(tiles: Sequence[Tile], columns: int | None = None, tile: int = 320) -> Image.Image:
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


def legend(width: int, colormap: str, low: str, high: str, title: str) -> Image.Image:
    """A bar of the colours of a map, `low` and `high` under its ends and `title` between them: RGB, `width` wide."""
    return _legend(width, _legend_text(width), colormap, (low, high, title))


def with_legend(picture: Image.Image, colormap: str, low: str, high: str, title: str) -> Image.Image:
    """The picture in RGB, pixel for pixel, with its legend below.

    Where both sides are shorter than `MIN_LEGEND_WIDTH` every pixel becomes a square of several; a picture that is
    only narrower than that stands in the middle of that width.
    """
    picture = _flat(picture)
    times = math.ceil(MIN_LEGEND_WIDTH / max(picture.size))
    picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    width = max(picture.width, MIN_LEGEND_WIDTH)
    below = _legend(width, _legend_text(min(width, 2 * picture.height)), colormap, (low, high, title))
    canvas = Image.new("RGB", (width, picture.height + below.height), BACKGROUND)
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    canvas.paste(below, (0, picture.height))
    return canvas


def spelled(text: str) -> str:
    """The text on one line in characters that the font can draw, as near as may be; `?` for what has no spelling."""
    return " ".join("".join(map(_spelled, text[:LONGEST_TEXT])).split())


def shortened(text: str, size: int, width: float) -> str:
    """The text as `spelled`, cut so that it is at most `width` pixels wide, with an ellipsis where it was cut."""
    text = spelled(text)
    if _width(text, size) <= width:
        return text
    cuts = bisect(range(len(text)), width, key=lambda n: _width(text[:n].rstrip() + "…", size))
    return text[: cuts - 1].rstrip() + "…" if cuts else ""


def _plan(tiles: Sequence[Tile], columns: int | None, tile: int) -> Plan:
    """Wells as large as the largest fitted picture, and wide enough for a name."""
    fitted = [_fit(one.picture.size, tile) for one in tiles]
    well = max([round(0.6 * tile), *(w for w, _ in fitted)]), max([1, *(h for _, h in fitted)])
    title, caption = max(11, round(tile / 18)), max(10, round(tile / 23))
    above = round(1.5 * title) if any(one.title for one in tiles) else 0
    below = round(1.8 * caption) if any(one.caption for one in tiles) else 0
    gap = max(4, round(tile / 16))
    cell = (well[0] + gap, above + well[1] + below + gap)
    columns = min(columns or _columns(len(tiles), cell[0] / cell[1]), max(1, len(tiles)))
    return Plan(well, title, caption, above, below, gap, columns, -(-len(tiles) // columns))


def _columns(count: int, cell_aspect: float) -> int:
    """The number of columns that gives nearly the wanted shape and leaves few places empty."""

    def badness(columns: int) -> float:
        rows = -(-count // columns)
        return abs(math.log(columns * cell_aspect / rows / ASPECT)) + 2 * (columns * rows - count) / count

    return min(range(1, count + 1), key=badness, default=1)


def _draw(canvas: Image.Image, one: Tile, plan: Plan, corner: tuple[int, int]) -> None:
    (x, y), (width, height), pen = corner, plan.well, ImageDraw.Draw(canvas)
    y += plan.above
    # The longer side of every fitted picture is that of the well.
    picture = _resized(one.picture, _fit(one.picture.size, max(plan.well)))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=WELL)
    canvas.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
    _write(pen, (x, y - round(0.5 * plan.title)), shortened(one.title, plan.title, width), plan.title, BRIGHT)
    baseline = y + height + round(1.3 * plan.caption)
    _write(pen, (x, baseline), shortened(one.caption, plan.caption, width), plan.caption, MUTED)


def _legend_text(width: int) -> int:
    """The text size of a legend: it grows with the picture, but slower."""
    return max(12, round(9 + width / 120))


def _legend(width: int, text: int, colormap: str, texts: tuple[str, str, str]) -> Image.Image:
    bar, top, inset = max(6, round(0.7 * text)), round(0.9 * text), min(text, width // 8)
    baseline = top + bar + round(1.25 * text)
    canvas = Image.new("RGB", (width, baseline + text), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    length = max(1, width - 2 * inset)
    colours = heatmap(np.linspace(0, 1, length, dtype=np.float32)[None], colormap).convert("RGB")
    pen.rectangle((inset - 1, top - 1, inset + length, top + bar), outline=EDGE)
    canvas.paste(colours.resize((length, bar), Image.Resampling.NEAREST), (inset, top))
    low, high = (shortened(end, text, length / 3) for end in texts[:2])
    ends = max(_width(low, text), _width(high, text)) + text
    title = shortened(texts[2], text, length - 2 * ends)
    _write(pen, (inset, baseline), low, text, BRIGHT)
    _write(pen, (inset + length - _width(high, text), baseline), high, text, BRIGHT)
    _write(pen, ((width - _width(title, text)) / 2, baseline), title, text, MUTED)
    return canvas


def _write(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, fill: tuple[int, int, int]
) -> None:
    """A line of text that starts at `place` (x, baseline), word by word: on whole pixels letters are crisp."""
    x, baseline = place
    for word in text.split():
        pen.text((round(x), baseline), word, fill=fill, font=_font(size), anchor="ls")
        x += _width(word, size) + SPACE * size


def _width(text: str, size: int) -> float:
    """What `_write` takes of a line."""
    words = text.split()
    return sum(_font(size).getlength(word) for word in words) + SPACE * size * max(0, len(words) - 1)


def _fit(size: tuple[int, int], tile: int) -> tuple[int, int]:
    scale = tile / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    enlarged = size[0] > picture.width
    filter_ = Image.Resampling.BICUBIC if enlarged else Image.Resampling.LANCZOS
    return _flat(picture).resize(size, filter_, reducing_gap=3)


def _flat(picture: Image.Image) -> Image.Image:
    """The picture as RGB, what is transparent in the grey of the unseen."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (GREY, GREY, GREY, 255)), layer).convert("RGB")


@lru_cache(64)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


@lru_cache(4096)
def _spelled(character: str) -> str:
    if character.isspace() or _drawable(character):
        return character
    if character in SPELLINGS:
        return SPELLINGS[character]
    if unicodedata.category(character) in ("Mn", "Me", "Cf", "Cc"):
        return ""
    parts = unicodedata.normalize("NFKD", character)
    if parts == character:
        return "?"
    kind = unicodedata.decomposition(character).partition(" ")[0]
    return MARKS.get(kind, "") + "".join(map(_spelled, parts))


def _drawable(character: str) -> bool:
    """Whether the font has a glyph for it, other than the box that stands for a missing one."""
    if unicodedata.category(character)[0] == "C":
        return False
    font = _font(16)
    mask, box = font.getmask(character), font.getmask("\ue000")
    return (mask.size, bytes(mask)) != (box.size, bytes(box))
