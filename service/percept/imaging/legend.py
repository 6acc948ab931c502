"""The legend of a colour map: a bar of its colours with the values at its ends, alone or below a picture.

The name of a colour map and the texts come in; an RGB picture leaves. It knows no map, no model and no HTTP.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

from percept.imaging.colormaps import flatten, render_heatmap
from percept.imaging.text import BACKGROUND, BRIGHT, MUTED, draw_text, shorten, text_width

# In pixels. The texts of a narrower legend would be illegible.
MIN_LEGEND_WIDTH = 240
BORDER = (82, 82, 91)  # the colour of the line around the bar


def render_legend(width: int, colormap: str, low: str, high: str, title: str) -> Image.Image:
    """A bar of the colours of a map with `low` and `high` under its ends and `title` between: RGB, `width` wide."""
    return _render_legend(width, _text_size(width), colormap, (low, high, title))


def add_legend(picture: Image.Image, colormap: str, low: str, high: str, title: str) -> Image.Image:
    """The picture as RGB with its legend below.

    A picture with both sides below `MIN_LEGEND_WIDTH` is enlarged by a whole number; one that is only narrower is
    centred in that width. Otherwise its pixels stay as they are.
    """
    picture = flatten(picture)
    factor = math.ceil(MIN_LEGEND_WIDTH / max(picture.size))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    width = max(picture.width, MIN_LEGEND_WIDTH)
    legend = _render_legend(width, _text_size(min(width, 2 * picture.height)), colormap, (low, high, title))
    canvas = Image.new("RGB", (width, picture.height + legend.height), BACKGROUND)
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    canvas.paste(legend, (0, picture.height))
    return canvas


def _text_size(width: int) -> int:
    """The text size of a legend: it grows more slowly than the legend."""
    return max(12, round(9 + width / 120))


def _render_legend(width: int, text_size: int, colormap: str, texts: tuple[str, str, str]) -> Image.Image:
    height, top, inset = max(6, round(0.7 * text_size)), round(0.9 * text_size), min(text_size, width // 8)
    baseline = top + height + round(1.25 * text_size)
    length = max(1, width - 2 * inset)
    canvas = Image.new("RGB", (width, baseline + text_size), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((inset - 1, top - 1, inset + length, top + height), outline=BORDER)
    colours = render_heatmap(np.linspace(0, 1, length, dtype=np.float32)[None], colormap).convert("RGB")
    canvas.paste(colours.resize((length, height), Image.Resampling.NEAREST), (inset, top))
    low, high = (shorten(end, text_size, length / 3) for end in texts[:2])
    low_width, high_width = text_width(low, text_size), text_width(high, text_size)
    title = shorten(texts[2], text_size, length - 2 * (max(low_width, high_width) + text_size))
    draw_text(pen, (inset, baseline), low, text_size, BRIGHT)
    draw_text(pen, (inset + length - high_width, baseline), high, text_size, BRIGHT)
    draw_text(pen, ((width - text_width(title, text_size)) / 2, baseline), title, text_size, MUTED)
    return canvas
