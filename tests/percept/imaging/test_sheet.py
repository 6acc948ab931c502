"""Contact sheets and legends: pictures keep their shape and colours, texts their place, whatever is asked for."""

import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from percept.imaging import colormaps, sheet, text
from percept.imaging.legend import MIN_LEGEND_WIDTH, add_legend, render_legend
from percept.imaging.sheet import MAX_SHEET_PIXELS, Tile
from percept.imaging.text import BACKGROUND, WELL, shorten

RED, BLUE = (220, 20, 30), (20, 30, 220)


def red(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), RED)


def where(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) around the pixels of nearly that colour."""
    near = np.abs(np.asarray(picture).astype(int) - colour).max(2) <= 2
    rows, columns = np.nonzero(near)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((640, 480), (320, 240)), ((480, 640), (240, 320)), ((32, 32), (320, 320)), ((9000, 3), (320, 1))],
)
def test_a_picture_is_fitted_into_its_tile_and_keeps_its_proportions(size, fitted) -> None:
    drawn = sheet.render_sheet([Tile(red(*size), "title", "caption")])
    left, top, right, bottom = where(drawn, RED)
    assert (right - left, bottom - top) == fitted
    assert drawn.mode == "RGB"
    assert drawn.getpixel((0, 0)) == drawn.getpixel((drawn.width - 1, drawn.height - 1)) == BACKGROUND


def test_tiles_stand_in_reading_order() -> None:
    tiles = [Tile(red(40, 30), "a"), Tile(red(40, 30), "b"), Tile(Image.new("RGB", (40, 30), BLUE), "c")]
    wide = sheet.render_sheet(tiles, columns=3, tile=100)
    assert where(wide, RED)[2] < where(wide, BLUE)[0]
    high = sheet.render_sheet(tiles, columns=1, tile=100)
    assert where(high, RED)[3] < where(high, BLUE)[1]
    assert high.height > high.width
    two = sheet.render_sheet(tiles, columns=2, tile=100)
    assert where(two, BLUE)[0] == where(two, RED)[0]
    assert sheet.render_sheet(tiles, columns=99, tile=100).size == wide.size


def test_the_title_stands_above_and_the_caption_below_the_picture() -> None:
    bare, named, told = (
        sheet.render_sheet([Tile(red(64, 48), *texts)]) for texts in [("",), ("zebra",), ("zebra", "0.97")]
    )
    assert bare.height < named.height < told.height
    left, top, right, bottom = where(told, RED)
    text = (np.asarray(told) > 120).all(2)
    assert text[:top].any()
    assert text[bottom:].any()
    assert not text[top:bottom].any()
    for part in (text[:, :left], text[:, right:], text[:4], text[-4:]):
        assert not part.any()


@pytest.mark.parametrize(
    ("count", "shape"),
    [
        (1, (1, 1)),
        (2, (2, 1)),
        (3, (3, 1)),
        (4, (2, 2)),
        (5, (3, 2)),
        (6, (3, 2)),
        (7, (4, 2)),
        (8, (4, 2)),
        (10, (4, 3)),
        (12, (4, 3)),
    ],
)
def test_a_sheet_is_nearly_square_and_leaves_few_places_empty(count: int, shape: tuple[int, int]) -> None:
    plan = sheet._plan([Tile(red(64, 60), "x")] * count, None, 320)
    assert (plan.columns, plan.rows) == shape


def test_pictures_of_different_proportions_stand_in_equal_wells() -> None:
    drawn = sheet.render_sheet([Tile(red(60, 30), ""), Tile(Image.new("RGB", (30, 60), BLUE), "")], columns=2, tile=200)
    (a, b, c, d), (e, f, _, h) = where(drawn, RED), where(drawn, BLUE)
    assert ((b + d) / 2, c - a, h - f) == ((f + h) / 2, 200, 200)
    assert drawn.getpixel((e - 2, (f + h) // 2)) == WELL


@pytest.mark.parametrize(
    ("count", "columns", "tile"), [(1, None, 50_000), (900, None, 640), (200, 1, 3000), (5000, 3, 320)]
)
def test_a_sheet_is_never_larger_than_its_bound(count: int, columns, tile: int) -> None:
    drawn = sheet.render_sheet([Tile(red(8, 6), "title", "caption")] * count, columns, tile)
    assert 0.3 * MAX_SHEET_PIXELS < drawn.width * drawn.height <= MAX_SHEET_PIXELS


def test_a_sheet_of_nothing_is_a_small_dark_picture() -> None:
    assert set(sheet.render_sheet([]).convert("RGB").tobytes()) <= set(BACKGROUND)


def test_what_is_transparent_becomes_the_grey_of_the_unseen() -> None:
    heat = np.full((40, 40), np.nan, np.float32)
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    for picture in (colormaps.render_heatmap(heat, "inferno"), clear, clear.convert("LA")):
        drawn = sheet.render_sheet([Tile(picture, "")])
        assert drawn.getpixel((drawn.width // 2, drawn.height // 2)) == (colormaps.GREY,) * 3
        assert add_legend(picture, "inferno", "0", "1", "").getpixel((20, 20)) == (colormaps.GREY,) * 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16", "F"])
def test_a_picture_of_any_mode_is_drawn(mode: str) -> None:
    assert sheet.render_sheet([Tile(Image.new(mode, (20, 20)), "")]).mode == "RGB"
    assert add_legend(Image.new(mode, (20, 20)), "turbo", "0", "1", "").mode == "RGB"


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
def test_texts_are_spelled_with_what_the_font_has(text: str, spelling: str) -> None:
    assert text.transliterate(text) == spelling


def test_every_spelling_is_needed_and_can_be_drawn() -> None:
    for character, spelling in text.SPELLINGS.items():
        assert not text.is_drawable(character)
        assert unicodedata.normalize("NFKD", character) == character
        assert all(map(text.is_drawable, spelling))


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec=None), max_size=60), st.integers(8, 40), st.floats(-10, 400))
def test_a_shortened_text_fits_and_holds_no_boxes(text: str, size: int, width: float) -> None:
    short, whole = shorten(text, size, width), text.transliterate(text)
    assert not short or text.text_width(short, size) <= width
    assert short in ("", whole) or (short.endswith("…") and whole.startswith(short[:-1]))
    assert all(map(text.is_drawable, short.replace(" ", "")))


def test_long_texts_are_cut_with_an_ellipsis_before_the_next_tile() -> None:
    long = "a very long title that never ends " * 10_000
    tiles = [Tile(red(64, 48), long, long)] * 2
    text = (np.asarray(sheet.render_sheet(tiles, columns=2)) > 120).all(2)
    left, _, right, _ = where(sheet.render_sheet(tiles[:1]), RED)
    assert text[:, left:right].any()
    assert not text[:, right : right + left].any()
    assert shorten("abcdefgh", 16, 40).endswith("…")


@pytest.mark.parametrize("colormap", colormaps.COLORMAPS)
def test_the_bar_of_a_legend_runs_through_the_colours_of_the_map(colormap: str) -> None:
    drawn = np.asarray(render_legend(600, colormap, "0", "1", "heat")).astype(int)
    ramp = np.asarray(
        colormaps.render_heatmap(np.linspace(0, 1, 255, dtype=np.float32)[None], colormap).convert("RGB")
    )[0]
    bar = drawn[17, 20:580]
    nearest = np.abs(bar[:, None] - ramp.astype(int)).sum(2)
    assert nearest.min(1).max() == 0
    assert np.abs(bar[0] - ramp[0]).sum() <= 40
    assert np.abs(bar[-1] - ramp[-1]).sum() <= 40
    assert (drawn[0] == BACKGROUND).all()
    assert (drawn[-1] == BACKGROUND).all()


def test_a_legend_has_its_ends_and_its_title_at_their_places() -> None:
    def written(*texts: str) -> list[bool]:
        drawn = np.asarray(render_legend(600, "inferno", *texts)) > 120
        return [bool(part.all(2).any()) for part in np.split(drawn[28:], 3, 1)]

    assert written("0", "", "") == [True, False, False]
    assert written("", "1", "") == [False, False, True]
    assert written("", "", "heat") == [False, True, False]


@pytest.mark.parametrize("width", [1, 2, 9, 40, 240, 4000])
def test_a_legend_is_as_wide_as_asked_and_grows_slowly(width: int) -> None:
    drawn = render_legend(width, "viridis", "-0.12345678", "2.3456789", "Grad-CAM · a class of a long name · stage4")
    assert drawn.width == width
    assert 30 <= drawn.height <= 200


@pytest.mark.parametrize("size", [(640, 480), (240, 1), (3000, 90), (100, 400)])
def test_with_legend_keeps_the_pixels_of_the_picture(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), np.uint8)
    drawn = np.asarray(add_legend(Image.fromarray(noise), "jet", "0", "1", "heat"))
    left = (drawn.shape[1] - size[0]) // 2
    assert drawn.shape[1] == max(size[0], MIN_LEGEND_WIDTH)
    assert (drawn[: size[1], left : left + size[0]] == noise).all()
    assert drawn.shape[0] - size[1] <= 120


def test_a_tiny_picture_is_enlarged_by_a_whole_number() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (32, 32, 3), np.uint8)
    drawn = np.asarray(add_legend(Image.fromarray(noise), "jet", "0", "1", "heat"))
    assert drawn.shape[1] == 256
    assert (drawn[4:256:8, 4::8] == noise).all()
    assert add_legend(red(1, 1), "jet", "0", "1", "heat").width == MIN_LEGEND_WIDTH


def test_threads_draw_what_one_thread_draws() -> None:
    tiles = [Tile(red(30, 20), f"title {k}", "caption " * k) for k in range(6)]
    alone = sheet.render_sheet(tiles).tobytes()
    with ThreadPoolExecutor(4) as pool:
        assert all(drawn.tobytes() == alone for drawn in pool.map(lambda _: sheet.render_sheet(tiles), range(16)))
