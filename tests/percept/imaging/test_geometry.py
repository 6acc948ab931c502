"""Geometry: maps over the network's input return to the right pixels of every photo."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from percept.bundle.preprocessing import Preprocessing
from percept.imaging.geometry import Geometry, compute_geometry, place_resized, project_to_photo, project_to_seen
from percept.imaging.preprocess import prepare
from tests.photos import draw_marker

CELL = 4  # pixels of the input along each side of a cell
RULES = {
    "squeeze": Preprocessing(height=64, width=48),
    "crop": Preprocessing(height=64, width=48, resize="crop", short_side=72),
    "pad": Preprocessing(height=64, width=48, resize="pad"),
    "squeeze, then crop": Preprocessing(height=64, width=48, resize_size=(72, 54)),
    "cover, then crop": Preprocessing(height=64, width=48, resize="crop", resize_size=(72, 72)),
    "cover less, then pad": Preprocessing(height=64, width=48, resize="crop", resize_size=(56, 56)),
    "fit, then pad": Preprocessing(height=64, width=48, resize="pad", resize_size=(72, 54)),
}


@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    rule=st.sampled_from(list(RULES.values())),
    cells=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_map_returns_in_the_size_of_the_photo(width: int, height: int, rule: Preprocessing, cells) -> None:
    geometry = compute_geometry((width, height), rule)
    assert prepare(Image.new("RGB", (width, height)), geometry, rule).shape == (64, 48, 3)
    found = project_to_photo(np.ones(cells, np.float32), geometry)
    left, top, right, bottom = geometry.seen
    assert found.shape == (height, width)
    assert np.allclose(found[top:bottom, left:right], 1)
    assert np.isnan(found).sum() == width * height - (right - left) * (bottom - top)
    assert project_to_seen(np.ones(cells, np.float32), geometry).shape == (bottom - top, right - left)


@given(
    width=st.integers(48, 700),
    height=st.integers(48, 700),
    rule=st.sampled_from(list(RULES.values())),
    place=st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)),
)
def test_marker_returns_to_its_place(width: int, height: int, rule: Preprocessing, place: tuple[float, float]) -> None:
    """A marker in the photo, averaged over cells of the input and projected back, has its centre where it was."""
    geometry = compute_geometry((width, height), rule)
    left, top, right, bottom = geometry.seen
    x, y = left + place[0] * (right - left), top + place[1] * (bottom - top)
    cell = max((geometry.box[2] - geometry.box[0]) / 12, (geometry.box[3] - geometry.box[1]) / 16)
    photo = draw_marker((width, height), (x, y), 1.2 * cell)
    redness = np.clip(prepare(photo, geometry, rule).astype(np.float32) @ [1, -0.5, -0.5], 0, None)
    cells = redness.reshape(16, CELL, 12, CELL).mean((1, 3), dtype=np.float32)
    rows, columns = np.nonzero(np.nan_to_num(project_to_photo(cells, geometry)) > cells.max() / 2)
    visible_x, visible_y = (
        (max(low, round(centre - 1.2 * cell)) + min(high, round(centre + 1.2 * cell))) / 2
        for centre, low, high in ((x, left, right), (y, top, bottom))
    )
    assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx((visible_x, visible_y), abs=cell)


def test_projection_equals_bilinear_interpolation_of_torch() -> None:
    values = np.random.default_rng(0).random((5, 7), np.float32)
    geometry = compute_geometry((70, 41), Preprocessing(height=32, width=32))
    ours = project_to_photo(values, geometry)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], size=(41, 70), mode="bilinear")
    assert np.abs(ours - theirs[0, 0].numpy()).max() < 1e-5


def test_map_positions_lie_at_the_right_photo_points() -> None:
    squeeze, crop, pad = (compute_geometry((400, 200), RULES[name]) for name in ("squeeze", "crop", "pad"))
    assert squeeze.to_photo(0.5, 0.5, (2, 4)) == (50, 50)
    assert crop.to_photo(4, 4, (8, 8)) == pytest.approx((200, 100), abs=2)
    assert pad.to_photo(0, 0, (8, 8)) == (0, 0)
    assert pad.to_photo(4, 4, (8, 8)) == pytest.approx((200, 100))


@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    rule=st.sampled_from(list(RULES.values())),
    point=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_to_map_inverts_to_photo(width: int, height: int, rule: Preprocessing, point: tuple[float, float]) -> None:
    geometry = compute_geometry((width, height), rule)
    left, top, right, bottom = geometry.box
    x = max(left, 0) + point[0] * (min(right, width) - max(left, 0))
    y = max(top, 0) + point[1] * (min(bottom, height) - max(top, 0))
    assert geometry.to_photo(*geometry.to_map(x, y, (7, 9)), (7, 9)) == pytest.approx((x, y), abs=1e-6)


def test_scaled_geometry_covers_the_same_part() -> None:
    geometry = compute_geometry((400, 200), RULES["crop"]).scaled(0.5)
    assert geometry.size == (200, 100)
    assert geometry.box == pytest.approx(compute_geometry((200, 100), RULES["crop"]).box)
    assert Geometry(3, 3, (0, 0, 3, 3)).scaled(0.01).size == (1, 1)


def test_box_follows_the_rounding_of_the_resized_photo() -> None:
    """500 x 375 becomes 341 x 256, of which the columns from 58 and the rows from 16 are cropped."""
    rule = Preprocessing(height=224, width=224, resize="crop", resize_size=(256, 256))
    fx, fy = 500 / 341, 375 / 256
    assert place_resized((500, 375), rule) == (-58, -16, 283, 240)
    assert compute_geometry((500, 375), rule).box == pytest.approx((58 * fx, 16 * fy, 282 * fx, 240 * fy))


@pytest.mark.parametrize(
    ("resize", "size", "place"),
    [
        ("squeeze", (500, 375), (-16, -16, 240, 240)),
        ("crop", (500, 375), (-58, -16, 283, 240)),
        ("pad", (500, 375), (-16, 16, 240, 208)),  # 256 x 192
        ("pad", (500, 371), (-16, 17, 240, 207)),  # 190 of 189.95 rows
        ("crop", (1, 9), (-16, -1040, 240, 1264)),
    ],
)
def test_resized_photos_lie_in_the_centre(resize: str, size: tuple[int, int], place: tuple[int, ...]) -> None:
    rule = Preprocessing(height=224, width=224, resize=resize, resize_size=(256, 256))
    assert place_resized(size, rule) == place
