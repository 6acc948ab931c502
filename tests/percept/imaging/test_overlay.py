"""Pictures: colours are those of the field, sizes are exact, unseen is never cold."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from percept.imaging import colormaps, encode, overlay
from percept.imaging import sheet as sheets
from percept.imaging.geometry import UNSEEN, Geometry

HEAT = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
PHOTO = Image.new("RGB", (8, 6), (100, 150, 200))


@pytest.mark.parametrize("name", colormaps.COLORMAPS)
def test_a_colour_map_is_that_of_matplotlib(name: str) -> None:
    levels = np.arange(256)
    expected = (matplotlib.colormaps[name](levels)[:, :3] * 255).round()
    picture = colormaps.render_heatmap(np.linspace(0, 1, 255, dtype=np.float32)[None], name).convert("RGB")
    assert np.abs(np.asarray(picture)[0].astype(int) - expected[1:]).max() <= 1


def test_a_heatmap_is_hot_where_the_map_is_and_unseen_is_transparent() -> None:
    heat = HEAT.copy()
    heat[0, 0] = np.nan
    pixels = np.asarray(
        Image.open(io.BytesIO(encode.encode(colormaps.render_heatmap(heat, "gray"), "png"))).convert("RGBA")
    )
    assert pixels[0, 0, 3] == 0
    assert (pixels[..., 3] == 0).sum() == 1
    assert pixels[5, 7, 0] == 255
    assert (np.diff(pixels[..., 0].ravel()[1:].astype(int)) >= 0).all()
    jpeg = Image.open(io.BytesIO(encode.encode(colormaps.render_heatmap(HEAT * np.nan, "inferno"), "jpeg")))
    assert jpeg.getpixel((4, 3)) == (colormaps.GREY,) * 3


def test_an_overlay_leaves_cold_pixels_and_dims_unseen_ones() -> None:
    seen = Geometry(8, 6, (1, 0, 8, 5))
    pixels = np.asarray(overlay.overlay_heatmap(PHOTO, HEAT[:5, 1:] - HEAT[0, 1], seen, "inferno", 1.0))
    assert pixels[0, 1].tolist() == [100, 150, 200]
    for row, column in [*((5, x) for x in range(8)), *((y, 0) for y in range(6))]:
        assert len(set(pixels[row, column].tolist())) == 1
        assert pixels[row, column, 0] < 100
    assert np.abs(pixels[4, 7].astype(int) - (100, 150, 200)).max() > 60
    clear = np.asarray(overlay.overlay_heatmap(PHOTO, HEAT, Geometry(8, 6, (0, 0, 8, 6)), "inferno", 0.0))
    assert (clear == (100, 150, 200)).all()


def test_a_mask_is_indexed_in_the_palette_of_the_bundle() -> None:
    labels = np.array([[0, 1], [2, UNSEEN]], np.uint8)
    data = encode.encode(overlay.render_mask(labels, [(0, 0, 0), (9, 8, 7), (1, 2, 3)]), "png")
    picture = Image.open(io.BytesIO(data))
    assert picture.mode == "P"
    assert np.asarray(picture).tolist() == labels.tolist()
    assert np.asarray(picture.convert("RGBA"))[..., 3].tolist() == [[255, 255], [255, 0]]
    assert picture.convert("RGB").getpixel((1, 0)) == (9, 8, 7)


def test_without_a_palette_classes_have_the_colours_of_pascal_voc() -> None:
    picture = overlay.render_mask(np.array([[0, 1, 2, 15]], np.uint8), []).convert("RGB")
    assert [picture.getpixel((k, 0)) for k in range(4)] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 128, 128)]


def test_a_mask_overlay_keeps_the_background_clear() -> None:
    labels = np.zeros((6, 8), np.uint8)
    labels[0, 0], labels[:, 7] = 1, UNSEEN  # what was seen is always a box
    pixels = np.asarray(overlay.overlay_mask(PHOTO, labels, [(0, 0, 0), (255, 0, 0)], 0, 1.0))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[3, 3].tolist() == [100, 150, 200]
    assert len(set(pixels[5, 7].tolist())) == 1


@pytest.mark.parametrize("name", encode.ENCODERS)
def test_every_encoder_keeps_the_size(name: str) -> None:
    for picture in (
        PHOTO,
        colormaps.render_heatmap(HEAT, "viridis"),
        colormaps.render_heatmap(HEAT * np.nan, "viridis"),
    ):
        found = Image.open(io.BytesIO(encode.encode(picture, name)))
        assert (found.size, found.format) == ((8, 6), name.upper())


def test_npy_round_trips() -> None:
    found = np.load(io.BytesIO(encode.encode_npy(HEAT.T)), allow_pickle=False)
    assert found.dtype == np.float32
    assert (found == HEAT.T).all()


def test_a_grid_shows_the_strongest_channels_first() -> None:
    features = np.zeros((5, 4, 8), np.float32)
    features[3] = HEAT[:4] * -10
    features[1] = HEAT[:4]
    sheet = sheets.render_channels(features, "gray", 2)
    assert sheet.size == (2 * (sheets.TILE + sheets.GAP) + sheets.GAP, 48 + sheets.LINE + 2 * sheets.GAP)
    first = np.asarray(sheet.convert("L"))[sheets.GAP + sheets.LINE :, sheets.GAP : sheets.GAP + sheets.TILE]
    assert first[2, 2] > first[40, 90]


@pytest.mark.parametrize("shape", [(1, 1, 1), (300, 1, 40), (7, 40, 1)])
def test_a_grid_of_any_shape_is_drawn(shape: tuple[int, int, int]) -> None:
    assert min(sheets.render_channels(np.ones(shape, np.float32), "viridis", 25).size) > 0
