"""Localization against objects whose place is known."""

import numpy as np
import pytest

from percept.bundle.preprocessing import Preprocessing
from percept.evaluation.localization import localize
from percept.evaluation.photos import ObjectMask
from percept.imaging.geometry import compute_geometry

GEOMETRY = compute_geometry((8, 8), Preprocessing(height=8, width=8))
ALL = np.ones((8, 8), bool)
CORNER = np.zeros((8, 8), bool)
CORNER[:4, :4] = True


def peak_at(row: int, column: int) -> np.ndarray:
    heat = np.zeros((8, 8), np.float32)
    heat[row, column] = 1
    return heat


TWO_PEAKS = np.maximum(peak_at(1, 2), peak_at(7, 7) / 2).astype(np.float32)


def test_localization_compares_peak_and_energy_with_the_object() -> None:
    assert localize(peak_at(1, 2), GEOMETRY, ObjectMask(CORNER, ALL)) == (True, 1)
    assert localize(peak_at(5, 2), GEOMETRY, ObjectMask(CORNER, ALL)) == (False, 0)
    pointing, energy = localize(TWO_PEAKS, GEOMETRY, ObjectMask(CORNER, ALL))
    assert pointing is True
    assert energy == pytest.approx(2 / 3)


def test_coarse_map_points_at_the_centre_of_its_hottest_cell() -> None:
    coarse = np.array([[0, 1], [0, 0]], np.float32)
    centre = np.zeros((8, 8), bool)
    centre[2, 6] = True
    assert localize(coarse, GEOMETRY, ObjectMask(centre, ALL))[0] is True
    assert localize(coarse, GEOMETRY, ObjectMask(~centre, ALL))[0] is False


def test_map_of_zeros_misses() -> None:
    assert localize(np.zeros((2, 2), np.float32), GEOMETRY, ObjectMask(CORNER, ALL)) == (False, 0)


def test_unknown_pixels_are_left_out() -> None:
    assert localize(TWO_PEAKS, GEOMETRY, ObjectMask(CORNER, CORNER)) == (True, 1)
    outside = np.maximum(peak_at(7, 7), peak_at(1, 1) / 4).astype(np.float32)
    assert localize(outside, GEOMETRY, ObjectMask(CORNER, CORNER)) == (None, 1)
    for mask in (None, ObjectMask(~ALL, ALL), ObjectMask(CORNER, ~CORNER)):
        assert localize(TWO_PEAKS, GEOMETRY, mask) == (None, None)


def test_object_outside_the_crop_is_left_out() -> None:
    rule = Preprocessing(height=8, width=8, resize="crop", short_side=8)
    geometry = compute_geometry((24, 8), rule)
    left = np.zeros((8, 24), bool)
    left[:, :8] = True
    known = np.ones_like(left)
    assert localize(peak_at(1, 1), geometry, ObjectMask(left, known)) == (None, None)
    left[:, 8:10] = True
    assert localize(peak_at(1, 1), geometry, ObjectMask(left, known)) == (True, 1)
    assert localize(peak_at(1, 5), geometry, ObjectMask(left, known)) == (False, 0)
