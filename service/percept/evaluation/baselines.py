"""BASELINES: maps that do not use the network. A method that is not better than they are explains nothing.

A baseline is a function of the number of the photo and the shape (H, W) of the network's input; it returns a map
float32 [H,W] in [0,1].
"""

from collections.abc import Callable, Mapping

import numpy as np

from percept.explain.maps import normalize, resize
from percept.imaging.geometry import Map

GRID = 7  # of the random map, along each side


def _random(number: int, shape: tuple[int, int]) -> Map:
    """A resized grid of 7 x 7 random numbers, seeded by the number of the photo."""
    return normalize(resize(np.random.default_rng(number).random((GRID, GRID), np.float32), shape))


def _centre(number: int, shape: tuple[int, int]) -> Map:
    """exp(-2 r^2), r the distance from the centre in half sides."""
    y, x = (np.square(np.linspace(-1, 1, n, dtype=np.float32)) for n in shape)
    return normalize(np.exp(-2 * (y[:, None] + x)))


BASELINES: Mapping[str, Callable[[int, tuple[int, int]], Map]] = {"random": _random, "centre": _centre}
