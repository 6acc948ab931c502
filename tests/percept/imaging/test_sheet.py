"""Sheets: pictures keep their aspect ratio and colours, and titles and captions their place."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from percept.imaging.colormaps import GREY, render_heatmap
from percept.imaging.sheet import (
    CHANNEL_GAP,
    CHANNEL_LINE,
    CHANNEL_SIDE,
    FRAME_COLOUR,
    MAX_SHEET_PIXELS,
    Tile,
    _create_layout,
    render_channels,
    render_sheet,
)
from percept.imaging.text import BACKGROUND

RED, BLUE = (220, 20, 30), (20, 30, 220)


def red(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), RED)


def find_box(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) around the pixels of nearly that colour."""
    near = np.abs(np.asarray(picture).astype(int) - colour).max(2) <= 2
    rows, columns = np.nonzero(near)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((640, 480), (320, 240)), ((480, 640), (240, 320)), ((32, 32), (320, 320)), ((9000, 3), (320, 1))],
)
def test_picture_fits_its_tile_and_keeps_its_proportions(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    drawn = render_sheet([Tile(red(*size), "title", "caption")])
    left, top, right, bottom = find_box(drawn, RED)
    assert (right - left, bottom - top) == fitted
    assert drawn.mode == "RGB"
    assert drawn.getpixel((0, 0)) == drawn.getpixel((drawn.width - 1, drawn.height - 1)) == BACKGROUND


def test_tiles_are_arranged_row_by_row() -> None:
    tiles = [Tile(red(40, 30), "a"), Tile(red(40, 30), "b"), Tile(Image.new("RGB", (40, 30), BLUE), "c")]
    wide = render_sheet(tiles, columns=3, side=100)
    assert find_box(wide, RED)[2] < find_box(wide, BLUE)[0]
    high = render_sheet(tiles, columns=1, side=100)
    assert find_box(high, RED)[3] < find_box(high, BLUE)[1]
    assert high.height > high.width
    two = render_sheet(tiles, columns=2, side=100)
    assert find_box(two, BLUE)[0] == find_box(two, RED)[0]
    assert render_sheet(tiles, columns=99, side=100).size == wide.size


def test_title_is_above_and_caption_below_the_picture() -> None:
    bare, titled, captioned = (
        render_sheet([Tile(red(64, 48), *texts)]) for texts in [("",), ("zebra",), ("zebra", "0.97")]
    )
    assert bare.height < titled.height < captioned.height
    left, top, right, bottom = find_box(captioned, RED)
    text = np.all(np.asarray(captioned) > 120, axis=2)
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
def test_sheet_of_free_columns_leaves_few_cells_empty(count: int, shape: tuple[int, int]) -> None:
    layout = _create_layout([Tile(red(64, 60), "x")] * count, None, 320)
    assert (layout.columns, layout.rows) == shape


def test_pictures_of_different_proportions_have_equal_frames() -> None:
    drawn = render_sheet([Tile(red(60, 30), ""), Tile(Image.new("RGB", (30, 60), BLUE), "")], columns=2, side=200)
    (a, b, c, d), (e, f, _, h) = find_box(drawn, RED), find_box(drawn, BLUE)
    assert ((b + d) / 2, c - a, h - f) == ((f + h) / 2, 200, 200)
    assert drawn.getpixel((e - 2, (f + h) // 2)) == FRAME_COLOUR


@pytest.mark.parametrize(
    ("count", "columns", "side"), [(1, None, 50_000), (900, None, 640), (200, 1, 3000), (5000, 3, 320)]
)
def test_sheet_never_exceeds_the_maximum_size(count: int, columns: int | None, side: int) -> None:
    drawn = render_sheet([Tile(red(8, 6), "title", "caption")] * count, columns, side)
    assert 0.3 * MAX_SHEET_PIXELS < drawn.width * drawn.height <= MAX_SHEET_PIXELS


def test_empty_sheet_is_a_small_dark_picture() -> None:
    assert set(render_sheet([]).convert("RGB").tobytes()) <= set(BACKGROUND)


def test_transparent_pixels_become_grey() -> None:
    heat = np.full((40, 40), np.nan, np.float32)
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    for picture in (render_heatmap(heat, "inferno"), clear, clear.convert("LA")):
        drawn = render_sheet([Tile(picture, "")])
        assert drawn.getpixel((drawn.width // 2, drawn.height // 2)) == (GREY,) * 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16", "F"])
def test_sheet_accepts_pictures_of_any_mode(mode: str) -> None:
    assert render_sheet([Tile(Image.new(mode, (20, 20)), "")]).mode == "RGB"


def test_long_texts_end_before_the_next_tile() -> None:
    long = "a very long title that never ends " * 10_000
    tiles = [Tile(red(64, 48), long, long)] * 2
    text = np.all(np.asarray(render_sheet(tiles, columns=2)) > 120, axis=2)
    left, _, right, _ = find_box(render_sheet(tiles[:1]), RED)
    assert text[:, left:right].any()
    assert not text[:, right : right + left].any()


def test_threads_draw_the_same_sheet() -> None:
    tiles = [Tile(red(30, 20), f"title {k}", "caption " * k) for k in range(6)]
    alone = render_sheet(tiles).tobytes()
    with ThreadPoolExecutor(4) as pool:
        assert all(drawn.tobytes() == alone for drawn in pool.map(lambda _: render_sheet(tiles), range(16)))


def test_strongest_channels_are_shown_first() -> None:
    features = np.zeros((5, 4, 8), np.float32)
    ramp = np.linspace(0, 1, 32, dtype=np.float32).reshape(4, 8)
    features[3] = ramp * -10
    features[1] = ramp
    sheet = render_channels(features, "gray", 2)
    assert sheet.size == (2 * (CHANNEL_SIDE + CHANNEL_GAP) + CHANNEL_GAP, 48 + CHANNEL_LINE + 2 * CHANNEL_GAP)
    first = np.asarray(sheet.convert("L"))[CHANNEL_GAP + CHANNEL_LINE :, CHANNEL_GAP : CHANNEL_GAP + CHANNEL_SIDE]
    assert first[2, 2] > first[40, 90]


@pytest.mark.parametrize("shape", [(1, 1, 1), (300, 1, 40), (7, 40, 1)])
def test_channels_of_any_shape_are_drawn(shape: tuple[int, int, int]) -> None:
    assert min(render_channels(np.ones(shape, np.float32), "viridis", 25).size) > 0
