"""TODO: what comes in, what leaves."""

import math

import numpy as np
from PIL import Image, ImageDraw

from percept.imaging.colormaps import flatten, render_heatmap
from percept.imaging.text import BACKGROUND, BRIGHT, EDGE, MUTED, draw_text, shorten, text_width

# Narrower than this a legend cannot be read.
MIN_LEGEND_WIDTH = 240


def render_legend(width: int, colormap: str, low: str, high: str, title: str) -> Image.Image:
    """A bar of the colours of a map, `low` and `high` under its ends and `title` between them: RGB, `width` wide."""
    return _legend(width, _legend_text(width), colormap, (low, high, title))


def add_legend(picture: Image.Image, colormap: str, low: str, high: str, title: str) -> Image.Image:
    """The picture in RGB, pixel for pixel, with its legend below.

    Where both sides are shorter than `MIN_LEGEND_WIDTH` every pixel becomes a square of several; a picture that is
    only narrower than that stands in the middle of that width.
    """
    picture = flatten(picture)
    times = math.ceil(MIN_LEGEND_WIDTH / max(picture.size))
    picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    width = max(picture.width, MIN_LEGEND_WIDTH)
    below = _legend(width, _legend_text(min(width, 2 * picture.height)), colormap, (low, high, title))
    canvas = Image.new("RGB", (width, picture.height + below.height), BACKGROUND)
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    canvas.paste(below, (0, picture.height))
    return canvas


def _legend_text(width: int) -> int:
    """The text size of a legend: it grows with the picture, but slower."""
    return max(12, round(9 + width / 120))


def _legend(width: int, text: int, colormap: str, texts: tuple[str, str, str]) -> Image.Image:
    bar, top, inset = max(6, round(0.7 * text)), round(0.9 * text), min(text, width // 8)
    baseline = top + bar + round(1.25 * text)
    canvas = Image.new("RGB", (width, baseline + text), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    length = max(1, width - 2 * inset)
    colours = render_heatmap(np.linspace(0, 1, length, dtype=np.float32)[None], colormap).convert("RGB")
    pen.rectangle((inset - 1, top - 1, inset + length, top + bar), outline=EDGE)
    canvas.paste(colours.resize((length, bar), Image.Resampling.NEAREST), (inset, top))
    low, high = (shorten(end, text, length / 3) for end in texts[:2])
    ends = max(text_width(low, text), text_width(high, text)) + text
    title = shorten(texts[2], text, length - 2 * ends)
    draw_text(pen, (inset, baseline), low, text, BRIGHT)
    draw_text(pen, (inset + length - text_width(high, text), baseline), high, text, BRIGHT)
    draw_text(pen, ((width - text_width(title, text)) / 2, baseline), title, text, MUTED)
    return canvas
