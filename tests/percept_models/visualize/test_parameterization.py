"""The images that an optimization starts from."""

import torch

from percept_models.visualize.parameterization import FAINT, ImageParameterization


def test_faint_images_are_nearly_grey() -> None:
    with torch.no_grad():
        assert (ImageParameterization(2, (32, 48, 3), contrast=FAINT)() - 127.5).abs().max() < 64
