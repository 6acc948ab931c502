"""TODO: what comes in, what leaves."""

import unicodedata
from bisect import bisect
from functools import lru_cache

from PIL import ImageDraw, ImageFont

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


def transliterate(text: str) -> str:
    """The text on one line in characters that the font can draw, as near as may be; `?` for what has no spelling."""
    return " ".join("".join(map(_transliterate_character, text[:LONGEST_TEXT])).split())


def shorten(text: str, size: int, width: float) -> str:
    """The text as `transliterate`, cut so that it is at most `width` pixels wide, with an ellipsis where it was cut."""
    text = transliterate(text)
    if text_width(text, size) <= width:
        return text
    cuts = bisect(range(len(text)), width, key=lambda n: text_width(text[:n].rstrip() + "…", size))
    return text[: cuts - 1].rstrip() + "…" if cuts else ""


def draw_text(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, fill: tuple[int, int, int]
) -> None:
    """A line of text that starts at `place` (x, baseline), word by word: on whole pixels letters are crisp."""
    x, baseline = place
    for word in text.split():
        pen.text((round(x), baseline), word, fill=fill, font=_font(size), anchor="ls")
        x += text_width(word, size) + SPACE * size


def text_width(text: str, size: int) -> float:
    """What `draw_text` takes of a line."""
    words = text.split()
    return sum(_font(size).getlength(word) for word in words) + SPACE * size * max(0, len(words) - 1)


@lru_cache(64)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


@lru_cache(4096)
def _transliterate_character(character: str) -> str:
    if character.isspace() or is_drawable(character):
        return character
    if character in SPELLINGS:
        return SPELLINGS[character]
    if unicodedata.category(character) in ("Mn", "Me", "Cf", "Cc"):
        return ""
    parts = unicodedata.normalize("NFKD", character)
    if parts == character:
        return "?"
    kind = unicodedata.decomposition(character).partition(" ")[0]
    return MARKS.get(kind, "") + "".join(map(_transliterate_character, parts))


def is_drawable(character: str) -> bool:
    """Whether the font has a glyph for it, other than the box that stands for a missing one."""
    if unicodedata.category(character)[0] == "C":
        return False
    font = _font(16)
    mask, box = font.getmask(character), font.getmask("\ue000")
    return (mask.size, bytes(mask)) != (box.size, bytes(box))
