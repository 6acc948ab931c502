"""Colour maps: the colours are matplotlib's and Pascal VOC's, and unseen pixels differ from cold ones."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from percept.imaging.colormaps import COLORMAPS, GREY, class_palette, flatten, quantize, render_heatmap
from percept.imaging.encode import encode

HEAT = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)


@pytest.mark.parametrize("name", COLORMAPS)
def test_colour_map_equals_that_of_matplotlib(name: str) -> None:
    levels = np.arange(256)
    expected = (matplotlib.colormaps[name](levels)[:, :3] * 255).round()
    picture = render_heatmap(np.linspace(0, 1, 255, dtype=np.float32)[None], name).convert("RGB")
    assert np.abs(np.asarray(picture)[0].astype(int) - expected[1:]).max() <= 1


def test_heatmap_rises_with_the_map_and_unseen_is_transparent() -> None:
    heat = HEAT.copy()
    heat[0, 0] = np.nan
    pixels = np.asarray(Image.open(io.BytesIO(encode(render_heatmap(heat, "gray"), "png"))).convert("RGBA"))
    assert pixels[0, 0, 3] == 0
    assert (pixels[..., 3] == 0).sum() == 1
    assert pixels[5, 7, 0] == 255
    assert (np.diff(pixels[..., 0].ravel()[1:].astype(int)) >= 0).all()
    jpeg = Image.open(io.BytesIO(encode(render_heatmap(HEAT * np.nan, "inferno"), "jpeg")))
    assert jpeg.getpixel((4, 3)) == (GREY,) * 3


def test_only_nan_gets_level_0() -> None:
    assert quantize(np.array([[np.nan, 0, 0.5, 1]], np.float32)).tolist() == [[0, 1, 128, 255]]
    assert quantize(np.array([[0, 1]], np.float32)).tolist() == [[1, 255]]


def test_classes_without_a_palette_get_pascal_voc_colours() -> None:
    colours = class_palette([])
    assert colours[[0, 1, 2, 15]].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128]]
    assert class_palette([(1, 2, 3)])[[0, 1]].tolist() == [[1, 2, 3], [128, 0, 0]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_flatten_replaces_transparency_by_grey(mode: str) -> None:
    picture = (
        Image.new("RGBA", (4, 4), (255, 0, 0, 0)).convert(mode) if mode != "P" else render_heatmap(HEAT * np.nan, "jet")
    )
    assert flatten(picture).getpixel((1, 1)) == (GREY,) * 3
