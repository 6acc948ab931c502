"""Random transformations move an image only a little, and do not distort it."""

import torch

from percept_models.visualize.regularization import random_transform


def test_random_transform_keeps_a_disc_round() -> None:
    """Also in images that are not square."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(128.0), indexing="ij")
    disc = (torch.hypot(y - 31.5, x - 63.5) < 16).float().expand(1, 3, -1, -1)
    for seed in range(5):
        found = random_transform(disc, torch.Generator().manual_seed(seed))[0, 0] > 0.5
        height, width = (int(found.any(axis).sum()) for axis in (1, 0))
        assert abs(height - width) <= 2
        assert 26 <= height <= 38
