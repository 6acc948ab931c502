"""A marker in the photo returns under the map and the mask at the right pixels, over HTTP.

`tests/percept/imaging/test_geometry.py` proves the same of photos of any size without the server.
"""

import io
from itertools import cycle, product

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.photos import draw_marker, encode_photo

SIZES = [(150, 110), (97, 203), (641, 480), (333, 77), (48, 64)]
RESIZE_RULES = ["squeeze", "crop", "pad", "resized"]
# Each size with each rule, each rule with upright, flipped and sideways photos.
CASES = [(size, rule, k) for (size, rule), k in zip(product(SIZES, RESIZE_RULES), cycle(range(1, 9)), strict=False)]
INPUT_HEIGHT, INPUT_WIDTH = 64, 48
CELL = 4  # pixels of the input along each side of a cell


def cell_size(size: tuple[int, int], rule: str) -> tuple[float, float]:
    """The size (x, y) of a cell in photo pixels, independently of Percept's own geometry."""
    width, height = size
    scale = {
        "squeeze": (width / INPUT_WIDTH, height / INPUT_HEIGHT),
        "crop": (min(size) / 72, min(size) / 72),
        "resized": (min(size) / 72, min(size) / 72),
        "pad": (max(width / INPUT_WIDTH, height / INPUT_HEIGHT),) * 2,
    }[rule]
    return scale[0] * CELL, scale[1] * CELL


def centre_of_mass(mask: np.ndarray) -> tuple[float, float]:
    """The centre of mass (x, y) of the pixels that are true."""
    rows, columns = np.nonzero(mask)
    return float(columns.mean() + 0.5), float(rows.mean() + 0.5)


@pytest.mark.parametrize(("size", "rule", "orientation"), CASES)
def test_marker_returns_to_its_place(client: httpx.Client, size: tuple[int, int], rule: str, orientation: int) -> None:
    dx, dy = cell_size(size, rule)
    x, y = size[0] / 2 - 2.5 * dx, size[1] / 2 + 1.5 * dy  # off the centre, but inside the crop
    data = encode_photo(draw_marker(size, (x, y), max(dx, dy) * 1.2), "PNG", orientation)
    answer = client.post(f"/cam?model=classification-{rule}&format=json", content=data).json()
    assert answer["image"] == {"width": size[0], "height": size[1]}
    assert abs(answer["peak"]["x"] - x) <= max(dx, dy) * 1.2 + dx / 2
    assert abs(answer["peak"]["y"] - y) <= max(dx, dy) * 1.2 + dy / 2

    npy = client.post(f"/cam?model=classification-{rule}&format=npy&size=photo&scale=unit", content=data)
    heat = np.nan_to_num(np.load(io.BytesIO(npy.content)))
    assert heat.shape == (size[1], size[0])
    assert centre_of_mass(heat > 0.5) == pytest.approx((x, y), abs=max(dx, dy))

    png = client.post(f"/predict?model=segmentation-{rule}&format=png", content=data)
    mask = np.asarray(Image.open(io.BytesIO(png.content)))
    assert mask.shape == (size[1], size[0])
    assert centre_of_mass(mask == 1) == pytest.approx((x, y), abs=max(dx, dy))
