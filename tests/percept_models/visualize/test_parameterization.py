"""The images that an optimization starts from: in colour, grey, and with an alpha."""

import pytest
import torch

from percept_models.sources.preprocessing import LUMA
from percept_models.visualize.parameterization import FAINT, NATURAL, ImageParameterization


def test_faint_images_are_nearly_grey() -> None:
    with torch.no_grad():
        assert (ImageParameterization(2, (32, 48, 3), contrast=FAINT)() - 127.5).abs().max() < 64


def test_grey_images_have_the_contrast_of_luma() -> None:
    with torch.no_grad():
        grey = ImageParameterization(8, (32, 48, 1), contrast=NATURAL)()
        luma = torch.einsum(
            "c,nchw->nhw", torch.tensor(LUMA), ImageParameterization(8, (32, 48, 3), contrast=NATURAL)()
        )
    assert grey.shape == (8, 1, 32, 48)
    assert float(grey.std() / luma.std()) == pytest.approx(1, abs=0.2)


def test_images_with_alpha_are_opaque() -> None:
    with torch.no_grad():
        images = ImageParameterization(2, (32, 48, 4), contrast=NATURAL)()
        colours = ImageParameterization(2, (32, 48, 3), contrast=NATURAL)()
    assert (images[:, 3] == 255).all()
    torch.testing.assert_close(images[:, :3], colours)
