"""Texts: any text becomes characters that the font has, and fits the width that it is shortened to."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percept.imaging.text import SPELLINGS, has_glyph, shorten, text_width, transliterate


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("Irish wolfhound", "Irish wolfhound"),
        ("façade naïve Größe Łódź", "facade naive Grosse Lodz"),
        ("−0.42 → 3½ × 10², “quoted” · 50 °", "-0.42 -> 3 1⁄2 x 10^2, “quoted” · 50 °"),
        ("Ⅻ ﬀ\tlines\r\nand\u00a0spaces", "XII ff lines and spaces"),
        ("東京 \U0001f431 \ud800", "?? ? ?"),
        ("a\u200bb\0c\u202e\u0301", "abc"),
        ("", ""),
    ],
)
def test_text_is_transliterated_to_the_font(text: str, spelling: str) -> None:
    assert transliterate(text) == spelling


def test_every_spelling_is_needed_and_can_be_drawn() -> None:
    for character, spelling in SPELLINGS.items():
        assert not has_glyph(character)
        assert unicodedata.normalize("NFKD", character) == character
        assert all(map(has_glyph, spelling))


@settings(max_examples=200)
@given(st.text(st.characters(codec=None), max_size=60), st.integers(8, 40), st.floats(-10, 400))
def test_shortened_text_fits_and_has_glyphs(text: str, size: int, width: float) -> None:
    short, whole = shorten(text, size, width), transliterate(text)
    assert not short or text_width(short, size) <= width
    assert short in ("", whole) or (short.endswith("…") and whole.startswith(short[:-1]))
    assert all(map(has_glyph, short.replace(" ", "")))


def test_shortened_text_ends_in_an_ellipsis() -> None:
    assert shorten("abcdefgh", 16, 40).endswith("…")
