"""A marker in the photo comes back under the map and the mask at the right pixels, over HTTP, whatever the photo."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.photos import encoded, marked

SIZES = [(150, 110), (97, 203), (641, 480), (333, 77), (48, 64)]
RULES = ["squeeze", "crop", "pad"]
CELLS = (16, 12)
INPUT = (64, 48)


def cell(size: tuple[int, int], rule: str) -> tuple[float, float]:
    """The size (x, y) of one feature cell in photo pixels, worked out by hand."""
    width, height = size
    scale = {
        "squeeze": (width / INPUT[1], height / INPUT[0]),
        "crop": (min(size) / 72, min(size) / 72),
        "pad": (max(width / INPUT[1], height / INPUT[0]),) * 2,
    }[rule]
    return scale[0] * 4, scale[1] * 4


def centre(size: tuple[int, int], rule: str) -> tuple[float, float]:
    """A place away from the middle that every rule lets the network see."""
    x, y = cell(size, rule)
    return size[0] / 2 - 2.5 * x, size[1] / 2 + 1.5 * y


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_marker_comes_back_where_it_was(client: httpx.Client, size, rule: str, orientation: int) -> None:
    (dx, dy), (x, y) = cell(size, rule), centre(size, rule)
    data = encoded(marked(size, (x, y), max(dx, dy) * 1.2), "PNG", orientation)
    answer = client.post(f"/cam?model=classification-{rule}&format=json", content=data).json()
    assert answer["image"] == {"width": size[0], "height": size[1]}
    assert abs(answer["peak"]["x"] - x) <= max(dx, dy) * 1.2 + dx / 2
    assert abs(answer["peak"]["y"] - y) <= max(dx, dy) * 1.2 + dy / 2

    full = client.post(f"/cam?model=classification-{rule}&format=npy&size=photo&scale=unit", content=data)
    heat = np.nan_to_num(np.load(io.BytesIO(full.content)))
    assert heat.shape == (size[1], size[0])
    assert middle(heat > 0.5) == pytest.approx((x, y), abs=max(dx, dy))

    png = client.post(f"/predict?model=segmentation-{rule}&format=png", content=data)
    mask = np.asarray(Image.open(io.BytesIO(png.content)))
    assert mask.shape == (size[1], size[0])
    assert middle(mask == 1) == pytest.approx((x, y), abs=max(dx, dy))


def middle(where: np.ndarray) -> tuple[float, float]:
    """The centre of mass (x, y) of the pixels that are true."""
    rows, columns = np.nonzero(where)
    return float(columns.mean() + 0.5), float(rows.mean() + 0.5)
