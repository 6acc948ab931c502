"""Legends: the bar runs through the colours of the map, the texts have their place, the picture its pixels."""

import numpy as np
import pytest
from PIL import Image

from percept.imaging.colormaps import COLORMAPS, GREY, render_heatmap
from percept.imaging.legend import MIN_LEGEND_WIDTH, add_legend, render_legend
from percept.imaging.text import BACKGROUND


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_bar_runs_through_the_colours_of_the_map(colormap: str) -> None:
    drawn = np.asarray(render_legend(600, colormap, "0", "1", "heat")).astype(int)
    ramp = np.asarray(render_heatmap(np.linspace(0, 1, 255, dtype=np.float32)[None], colormap).convert("RGB"))[0]
    bar = drawn[17, 20:580]
    nearest = np.abs(bar[:, None] - ramp.astype(int)).sum(2)
    assert nearest.min(1).max() == 0
    assert np.abs(bar[0] - ramp[0]).sum() <= 40
    assert np.abs(bar[-1] - ramp[-1]).sum() <= 40
    assert (drawn[0] == BACKGROUND).all()
    assert (drawn[-1] == BACKGROUND).all()


def test_texts_are_at_their_places() -> None:
    def written(*texts: str) -> list[bool]:
        drawn = np.asarray(render_legend(600, "inferno", *texts)) > 120
        return [bool(part.all(2).any()) for part in np.split(drawn[28:], 3, 1)]

    assert written("0", "", "") == [True, False, False]
    assert written("", "1", "") == [False, False, True]
    assert written("", "", "heat") == [False, True, False]


@pytest.mark.parametrize("width", [1, 2, 9, 40, 240, 4000])
def test_legend_has_the_given_width_and_grows_slowly(width: int) -> None:
    drawn = render_legend(width, "viridis", "-0.12345678", "2.3456789", "Grad-CAM · a class of a long name · stage4")
    assert drawn.width == width
    assert 30 <= drawn.height <= 200


@pytest.mark.parametrize("size", [(640, 480), (240, 1), (3000, 90), (100, 400)])
def test_add_legend_keeps_the_pixels_of_the_picture(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), np.uint8)
    drawn = np.asarray(add_legend(Image.fromarray(noise), "jet", "0", "1", "heat"))
    left = (drawn.shape[1] - size[0]) // 2
    assert drawn.shape[1] == max(size[0], MIN_LEGEND_WIDTH)
    assert (drawn[: size[1], left : left + size[0]] == noise).all()
    assert drawn.shape[0] - size[1] <= 120


def test_small_picture_is_enlarged_by_a_whole_number() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (32, 32, 3), np.uint8)
    drawn = np.asarray(add_legend(Image.fromarray(noise), "jet", "0", "1", "heat"))
    assert drawn.shape[1] == 256
    assert (drawn[4:256:8, 4::8] == noise).all()
    assert add_legend(Image.new("RGB", (1, 1)), "jet", "0", "1", "heat").width == MIN_LEGEND_WIDTH


def test_transparent_pixels_become_grey() -> None:
    heat = np.full((40, 40), np.nan, np.float32)
    transparent = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    for picture in (render_heatmap(heat, "inferno"), transparent, transparent.convert("LA")):
        assert add_legend(picture, "inferno", "0", "1", "").getpixel((20, 20)) == (GREY,) * 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16", "F"])
def test_legend_accepts_pictures_of_any_mode(mode: str) -> None:
    assert add_legend(Image.new(mode, (20, 20)), "turbo", "0", "1", "").mode == "RGB"
