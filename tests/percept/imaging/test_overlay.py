"""Overlays: hot places and labels are coloured, cold and unseen ones keep or lose the colours of the photo."""

import io

import numpy as np
from PIL import Image

from percept.imaging.encode import encode
from percept.imaging.geometry import UNSEEN, Geometry
from percept.imaging.overlay import (
    CELL_COLOUR,
    EDGE,
    FIELD_COLOUR,
    outline_cell,
    overlay_heatmap,
    overlay_mask,
    pixel_box,
    render_mask,
)

HEAT = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
PHOTO = Image.new("RGB", (8, 6), (100, 150, 200))


def test_overlay_keeps_cold_pixels_and_dims_unseen_ones() -> None:
    geometry = Geometry(8, 6, (1, 0, 8, 5))
    pixels = np.asarray(overlay_heatmap(PHOTO, HEAT[:5, 1:] - HEAT[0, 1], geometry, "inferno", 1.0))
    assert pixels[0, 1].tolist() == [100, 150, 200]
    for row, column in [*((5, x) for x in range(8)), *((y, 0) for y in range(6))]:
        assert len(set(pixels[row, column].tolist())) == 1
        assert pixels[row, column, 0] < 100
    assert np.abs(pixels[4, 7].astype(int) - (100, 150, 200)).max() > 60
    clear = np.asarray(overlay_heatmap(PHOTO, HEAT, Geometry(8, 6, (0, 0, 8, 6)), "inferno", 0.0))
    assert (clear == (100, 150, 200)).all()


def test_mask_is_indexed_in_the_bundles_palette() -> None:
    labels = np.array([[0, 1], [2, UNSEEN]], np.uint8)
    data = encode(render_mask(labels, [(0, 0, 0), (9, 8, 7), (1, 2, 3)]), "png")
    picture = Image.open(io.BytesIO(data))
    assert picture.mode == "P"
    assert np.asarray(picture).tolist() == labels.tolist()
    assert np.asarray(picture.convert("RGBA"))[..., 3].tolist() == [[255, 255], [255, 0]]
    assert picture.convert("RGB").getpixel((1, 0)) == (9, 8, 7)


def test_mask_without_palette_has_pascal_voc_colours() -> None:
    picture = render_mask(np.array([[0, 1, 2, 15]], np.uint8), []).convert("RGB")
    assert [picture.getpixel((k, 0)) for k in range(4)] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 128, 128)]


def test_mask_overlay_keeps_the_background_transparent() -> None:
    labels = np.zeros((6, 8), np.uint8)
    labels[0, 0], labels[:, 7] = 1, UNSEEN  # the seen part is always a box
    pixels = np.asarray(overlay_mask(PHOTO, labels, [(0, 0, 0), (255, 0, 0)], 0, 1.0))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[3, 3].tolist() == [100, 150, 200]
    assert len(set(pixels[5, 7].tolist())) == 1


def test_outlines_lie_outside_the_boxes() -> None:
    picture = Image.new("RGB", (60, 60), (9, 9, 9))
    outline_cell(picture, (20, 20, 30, 30), (10, 10, 40, 40))
    pixels = np.asarray(picture)
    for (low, high), colour in (((20, 30), CELL_COLOUR), ((10, 40), FIELD_COLOUR)):
        assert (pixels[low - 1, low:high] == colour).all()
        assert (pixels[high, low:high] == colour).all()
        assert (pixels[low - 2, low:high] == EDGE).all()
        assert (pixels[low:high, high + 1] == EDGE).all()
    assert (pixels[20:30, 20:30] == 9).all()


def test_pixel_box_is_never_empty() -> None:
    assert pixel_box((1.4, 1.6, 3.5, 4.4), (10, 10)) == (1, 2, 4, 4)
    assert pixel_box((2.2, 9.9, 2.3, 9.9), (10, 10)) == (2, 9, 3, 10)
