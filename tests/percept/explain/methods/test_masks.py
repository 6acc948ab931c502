"""Masks, faded images and perturbed activations."""

import numpy as np
import pytest

from percept.explain.methods.masks import channel_mask, fade, keep_only, patch_mask, random_mask, zero_out


def test_fade_blends_image_and_blank_colour() -> None:
    pixels = np.full((1, 3, 3), 200, np.uint8)
    mask = np.array([[1, 0.5, 0]], np.float32)
    np.testing.assert_array_equal(
        fade(pixels, mask, (100, 0, 300))[0], [[200, 200, 200], [150, 100, 228], [100, 0, 255]]
    )


def test_channel_mask_is_scaled_to_the_unit_interval() -> None:
    mask = channel_mask(np.array([[-3, 1], [5, 5]], np.float32), (8, 6))
    assert mask.shape == (8, 6)
    assert (mask.min(), mask.max()) == (0, 1)
    assert not channel_mask(np.full((2, 2), 7, np.float32), (4, 4)).any()


@pytest.mark.parametrize(
    ("position", "rows", "columns"), [((0, 0), (0, 3), (0, 6)), ((1, 1), (1, 5), (2, 10)), ((3, 2), (5, 8), (6, 12))]
)
def test_patch_mask_covers_a_cell_and_half_a_cell_around(
    position: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    mask = patch_mask((8, 12), *position, (4, 3))
    expected = np.ones((8, 12), np.float32)
    expected[slice(*rows), slice(*columns)] = 0
    np.testing.assert_array_equal(mask, expected)


def test_random_masks_lie_in_the_unit_interval_and_follow_the_seed() -> None:
    one, again, other = (random_mask((30, 20), 7, 0.5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (30, 20)
    assert 0 <= one.min() < one.max() <= 1
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_keep_only_and_zero_out_add_up_to_the_activations() -> None:
    A = np.arange(1, 25, dtype=np.float32).reshape(2, 3, 4)
    place = np.s_[:, 1:, 2]
    kept, rest = keep_only(A, place), zero_out(A, place)
    np.testing.assert_array_equal(kept + rest, A)
    assert np.count_nonzero(kept) == 4
    assert not rest[place].any()
