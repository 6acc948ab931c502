"""Regularization of images that are found by gradients: random transformations, and total variation."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_ROTATION = math.radians(10)
MAX_SCALING = 0.12
MAX_SHIFT = 0.06  # as a share of the longer side


def random_transform(x: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate, scale and shift each image of [n,C,H,W] a little at random, reflecting it at its borders.

    Transformation robustness (Olah et al. 2017): the objective must hold for images that are moved a little.
    """
    n, _, height, width = x.shape

    def uniform(*shape: int) -> Tensor:
        """Random numbers in -1..1."""
        return 2 * torch.rand(*shape, generator=generator) - 1

    angle, scale = MAX_ROTATION * uniform(n), 1 + MAX_SCALING * uniform(n)
    cos, sin, aspect = scale * angle.cos(), scale * angle.sin(), height / width
    shift = 2 * MAX_SHIFT * max(height, width)  # in the units of affine_grid a side is 2 long
    right, down = shift / width * uniform(n), shift / height * uniform(n)
    matrix = torch.stack([cos, -sin * aspect, right, sin / aspect, cos, down], 1).view(n, 2, 3)
    grid = F.affine_grid(matrix, [*x.shape], align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def total_variation(x: Tensor) -> Tensor:
    """The mean of |∇x| of each image of [n,C,H,W] in 0..255, in units of 255, [n]."""
    x = x / 255
    down, right = x.diff(dim=2)[..., :-1], x.diff(dim=3)[:, :, :-1]
    return (down.square() + right.square() + 1e-8).sqrt().mean((1, 2, 3))
