"""The picture of a network's first kernels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from percept.bundle.filters import cut_tiles, load_picture
from percept.bundle.integrity import read_manifest
from tests.percept_models.networks import PREPROCESSING, Classifier, export_bundle


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_first_kernels_are_drawn_in_rgb(tmp_path: Path, channels: str) -> None:
    """Zero is grey, and the largest weight of each kernel has full intensity."""
    network = Classifier()
    W = network.get_parameter("stem.0.weight").detach().numpy()
    preprocessing = PREPROCESSING.model_copy(update={"channels": channels})
    layers = {"layers": ("image", "stem"), "cam_layer": "stem"}
    folder = export_bundle(tmp_path, network, **layers, preprocessing=preprocessing)
    (picture,) = read_manifest(folder).filters
    assert (picture.kind, picture.channels, picture.tile) == ("kernels", tuple(range(8)), (3, 3))
    tiles = cut_tiles(load_picture(folder, picture), picture)
    shown = np.stack([np.asarray(tile) for tile in tiles]).astype(float) - 128
    assert (np.abs(shown).max((1, 2, 3)) == 127).all()
    expected = (W if channels == "RGB" else W[:, ::-1]).transpose(0, 2, 3, 1)
    expected = 127 * expected / np.abs(expected).max((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(shown, expected, atol=0.51)


def test_network_without_colour_kernels_has_no_picture(tmp_path: Path) -> None:
    """Such as one whose first convolution treats each colour channel alone."""
    network = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(), nn.LazyLinear(5))
    network(torch.zeros(1, 3, PREPROCESSING.height, PREPROCESSING.width))
    assert read_manifest(export_bundle(tmp_path, network, layers=("image", "0"), cam_layer="0")).filters == ()
