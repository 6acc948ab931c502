"""Perturbed images and activations: arrays in, arrays out. It knows no network.

A mask is float32 [H,W] over an image's pixels: 1 keeps the pixel, 0 makes it blank.
"""

from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percept.explain.maps import Array, resize

BlankColour = tuple[float, ...]  # one value per channel of the image, 0 to 255


def fade(pixels: NDArray[np.uint8], mask: Array, blank: BlankColour) -> NDArray[np.uint8]:
    """Blend an image [H,W,C] with the blank colour: the image where the mask is 1, the colour where it is 0."""
    colour = np.clip(np.array(blank, np.float32), 0, 255)
    return np.rint(colour + (pixels - colour) * mask[:, :, None]).astype(np.uint8)


def channel_mask(channel: Array, shape: tuple[int, int]) -> Array:
    """A channel [h,w] as a mask of `shape`, scaled from its minimum and maximum to [0,1]; a constant one is all 0."""
    mask = resize(channel, shape)
    mask = mask - mask.min()
    return np.asarray(mask / max(float(mask.max()), 1e-30), np.float32)


def patch_mask(shape: tuple[int, int], i: int, j: int, grid: tuple[int, int]) -> Array:
    """A mask that is 0 on a patch at position (i, j) of a grid: its cell and half a cell more on every side."""
    (H, W), (rows, columns) = shape, grid
    mask = np.ones((H, W), np.float32)
    top, bottom = (i - 0.5) * H / rows, (i + 1.5) * H / rows
    left, right = (j - 0.5) * W / columns, (j + 1.5) * W / columns
    mask[max(0, floor(top)) : ceil(bottom), max(0, floor(left)) : ceil(right)] = 0
    return mask


def random_mask(shape: tuple[int, int], side: int, shown: float, rng: np.random.Generator) -> Array:
    """A random grid of `side` x `side` zeros and ones, enlarged to one cell more than the image, and shifted.

    A cell is 1 with the probability `shown`.
    """
    H, W = shape
    grid = Image.fromarray((rng.random((side, side)) < shown).astype(np.float32))
    size = side * side / (side + 1)
    x, y = rng.uniform(0, side - size, 2)
    return np.asarray(grid.resize((W, H), Image.Resampling.BILINEAR, box=(x, y, x + size, y + size)))


def keep_only(A: Array, place: Any) -> Array:
    """A copy of activations that is 0 except at one place, given as an index."""
    kept = np.zeros_like(A)
    kept[place] = A[place]
    return kept


def zero_out(A: Array, place: Any) -> Array:
    """A copy of activations that is 0 at one place, given as an index."""
    rest = A.copy()
    rest[place] = 0
    return rest
