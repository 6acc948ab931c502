"""Encoding: every format keeps the size of the picture, and arrays survive unchanged."""

import io

import numpy as np
import pytest
from PIL import Image

from percept.imaging.colormaps import render_heatmap
from percept.imaging.encode import SAVE_OPTIONS, encode, encode_npy

HEAT = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
PHOTO = Image.new("RGB", (8, 6), (100, 150, 200))


@pytest.mark.parametrize("name", SAVE_OPTIONS)
def test_every_encoder_keeps_the_size(name: str) -> None:
    for picture in (
        PHOTO,
        render_heatmap(HEAT, "viridis"),
        render_heatmap(HEAT * np.nan, "viridis"),
    ):
        found = Image.open(io.BytesIO(encode(picture, name)))
        assert (found.size, found.format) == ((8, 6), name.upper())


def test_npy_keeps_the_array() -> None:
    found = np.load(io.BytesIO(encode_npy(HEAT.T)), allow_pickle=False)
    assert found.dtype == np.float32
    assert (found == HEAT.T).all()
