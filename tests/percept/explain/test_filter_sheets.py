"""Sheets of filter pictures: the place, the size and the names of their tiles."""

import io

import numpy as np
import pytest
from PIL import Image

from percept.bundle.manifest import FilterPicture
from percept.errors import UnknownFilters
from percept.explain.filter_sheets import KERNEL_PIXELS, render_filter, render_filter_sheet
from percept.imaging.text import BACKGROUND

RED, GREY, BLUE = (255, 0, 0), (128, 128, 128), (0, 0, 255)


def create_png(tile: tuple[int, int], *colours: tuple[int, int, int]) -> bytes:
    """A PNG of one row of tiles (height, width), each of one colour."""
    height, width = tile
    picture = Image.new("RGB", (width * len(colours), height))
    for k, colour in enumerate(colours):
        picture.paste(colour, (k * width, 0, (k + 1) * width, height))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def maxima(layer: str, file: str, *channels: int) -> FilterPicture:
    n = len(channels)
    return FilterPicture(
        kind="maxima", layer=layer, file=file, tile=(8, 8), channels=channels, scores=(1.0,) * n, noise=(0.0,) * n
    )


def test_maxima_begin_a_row_for_each_layer() -> None:
    """Three rows of two, one and two tiles: the empty place has the colour of the background."""
    pictures = [maxima("a", "two.png", 0, 2), maxima("b", "one.png", 0), maxima("c", "two.png", 0, 2)]
    files = {"two.png": create_png((8, 8), RED, GREY), "one.png": create_png((8, 8), BLUE)}
    sheet = np.asarray(render_filter_sheet(pictures, files))
    columns = np.argwhere((sheet == RED).all(2))[:, 1]
    assert len(columns)
    assert (columns < sheet.shape[1] // 2).all()
    assert (sheet[sheet.shape[0] // 2, -30] == BACKGROUND).all()


def test_other_kinds_fill_the_sheet() -> None:
    """Four inversions stand in a block, not in four rows."""
    inversion = FilterPicture(kind="inversion", layer="a", file="a.png", tile=(8, 8), scores=(0.1,))
    single, four = (render_filter_sheet([inversion] * n, {"a.png": create_png((8, 8), BLUE)}) for n in (1, 4))
    assert four.width > 1.5 * single.width


def test_kernel_is_enlarged_by_a_whole_factor() -> None:
    kernels = FilterPicture(kind="kernels", file="k.png", tile=(3, 5), channels=(0, 2))
    tile = np.asarray(render_filter(kernels, {"k.png": create_png((3, 5), RED, GREY)}, 2))
    assert tile.shape == (144, KERNEL_PIXELS, 3)
    assert (tile == GREY).all()


def test_maximum_is_shown_pixel_for_pixel() -> None:
    tile = np.asarray(render_filter(maxima("a", "a.png", 4, 7), {"a.png": create_png((8, 8), RED, BLUE)}, 7))
    assert tile.shape == (8, 8, 3)
    assert (tile == BLUE).all()


def test_unknown_channel_lists_the_available_ones() -> None:
    with pytest.raises(UnknownFilters, match="channels 4, 7, not of 5"):
        render_filter(maxima("a", "a.png", 4, 7), {"a.png": create_png((8, 8), RED, BLUE)}, 5)
