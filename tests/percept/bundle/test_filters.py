"""Filter pictures: their tiles come out in order, and a picture that has other pixels than stated is rejected."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from percept.bundle.filters import cut_tiles, load_picture
from percept.bundle.manifest import FilterPicture
from percept.errors import BundleError

PICTURE = FilterPicture(kind="kernels", file="kernels.png", tile=(2, 3), channels=(0, 5, 7))


def save(folder: Path, mode: str, size: tuple[int, int]) -> None:
    Image.new(mode, size).save(folder / PICTURE.file)


def test_tiles_are_cut_row_by_row(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / PICTURE.file)
    first, second, third = map(np.asarray, cut_tiles(load_picture(tmp_path, PICTURE), PICTURE))
    assert (first == pixels[:2, :3]).all()
    assert (second == pixels[:2, 3:]).all()
    assert (third == pixels[2:, :3]).all()


@pytest.mark.parametrize(
    ("mode", "size"), [("RGB", (2, 6)), ("RGB", (6, 6)), ("RGB", (7, 4)), ("L", (6, 4)), ("RGBA", (6, 4))]
)
def test_other_sizes_and_modes_are_rejected(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    save(tmp_path, mode, size)
    with pytest.raises(
        BundleError, match=rf"kernels\.png is not a picture of kernels: {mode} of {size[0]} x {size[1]}"
    ):
        load_picture(tmp_path, PICTURE)


@pytest.mark.parametrize("data", [b"", b"no PNG", b"\x89PNG\r\n\x1a\n"])
def test_broken_png_is_rejected(tmp_path: Path, data: bytes) -> None:
    (tmp_path / PICTURE.file).write_bytes(data)
    with pytest.raises(BundleError, match=r"kernels\.png is not a picture of kernels"):
        load_picture(tmp_path, PICTURE)
