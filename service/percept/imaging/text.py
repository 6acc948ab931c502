"""Lines of text on pictures, in Pillow's built-in font.

The font has few characters beyond ASCII, so texts are transliterated into characters that it has. Sizes and widths are
in pixels. It knows no model and no HTTP.
"""

import unicodedata
from bisect import bisect
from functools import lru_cache

from PIL import ImageDraw, ImageFont

MAX_CHARACTERS = 400
# The width of a space, as a share of the text size: the font's own, 0.22, nearly vanishes in small text.
SPACE = 0.3

# The background of sheets and legends, and the two colours of text on it.
BACKGROUND, BRIGHT, MUTED = (24, 24, 27), (244, 244, 245), (172, 172, 180)

# Spelling → the characters with this spelling, which the font lacks and Unicode does not decompose.
_SPELLINGS = (
    {"-": "‐‒–—−", "·": "•∙⋅", "x": "×", "/": "÷", "->": "→", "<-": "←", "<=": "≤", ">=": "≥", "~": "≈", "'": "′"}
    | {"ss": "ß", "ae": "æ", "Ae": "Æ", "oe": "œ", "Oe": "Œ", "o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "i": "ı"}
    | {"d": "đð∂", "D": "ĐÐ", "th": "þ", "Th": "Þ", "alpha": "α", "beta": "β", "gamma": "γ", "u": "μ", "Sum": "Σ∑"}
    | {'"': "„"}
)
SPELLINGS = {character: spelling for spelling, characters in _SPELLINGS.items() for character in characters}
# Written before characters of these Unicode decompositions, so that 10² and 3½ do not become 102 and 31/2.
SEPARATORS = {"<super>": "^", "<fraction>": " "}

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def transliterate(text: str) -> str:
    """The text on one line, in characters that the font has; `?` stands for characters without a spelling."""
    return " ".join("".join(map(_transliterate_character, text[:MAX_CHARACTERS])).split())


def shorten(text: str, size: int, width: float) -> str:
    """The transliterated text, cut and ended with an ellipsis where it is wider than `width`."""
    text = transliterate(text)
    if text_width(text, size) <= width:
        return text
    fitting = bisect(range(len(text)), width, key=lambda n: text_width(text[:n].rstrip() + "…", size))
    return text[: fitting - 1].rstrip() + "…" if fitting else ""


def draw_text(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, fill: tuple[int, int, int]
) -> None:
    """Draw a line of text that starts at `place` (x, baseline).

    Each word starts at a whole pixel, where its letters are sharp.
    """
    x, baseline = place
    for word in text.split():
        pen.text((round(x), baseline), word, fill=fill, font=_font(size), anchor="ls")
        x += text_width(word, size) + SPACE * size


def text_width(text: str, size: int) -> float:
    """The width of a line as `draw_text` draws it."""
    words = text.split()
    return sum(_font(size).getlength(word) for word in words) + SPACE * size * max(0, len(words) - 1)


def has_glyph(character: str) -> bool:
    """Whether the font has the character: it draws an empty box, that of U+E000, for all others."""
    if unicodedata.category(character)[0] == "C":
        return False
    font = _font(16)
    mask, box = font.getmask(character), font.getmask("\ue000")
    return (mask.size, bytes(mask)) != (box.size, bytes(box))


@lru_cache(64)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


@lru_cache(4096)
def _transliterate_character(character: str) -> str:
    if character.isspace() or has_glyph(character):
        return character
    if character in SPELLINGS:
        return SPELLINGS[character]
    if unicodedata.category(character) in ("Mn", "Me", "Cf", "Cc"):
        return ""
    parts = unicodedata.normalize("NFKD", character)
    if parts == character:
        return "?"
    kind = unicodedata.decomposition(character).partition(" ")[0]
    return SEPARATORS.get(kind, "") + "".join(map(_transliterate_character, parts))
