"""Photos from a folder: how they are prepared, and which ones are taken."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from percept.errors import BundleError
from percept_models.export.photos import read_photos
from tests.percept_models.networks import PREPROCESSING
from tests.photos import draw_marker, encode_photo


def grey(level: int) -> bytes:
    """A PNG of one grey level."""
    return encode_photo(Image.new("RGB", (40, 30), (level,) * 3))


def grey_levels(folder: Path, limit: int = 200) -> list[int]:
    """The grey levels of a folder's photos."""
    return [int(photo[0, 0, 0]) for photo in read_photos(folder, PREPROCESSING, limit)]


def test_photo_is_prepared_as_the_server_prepares_it(tmp_path: Path) -> None:
    """Upright, uint8, of the trunk's size."""
    (tmp_path / "turned.jpg").write_bytes(
        encode_photo(draw_marker((60, 80), (9, 9), 6), "JPEG", orientation=6, quality=95)
    )
    (photo,) = read_photos(tmp_path, PREPROCESSING)
    assert photo.shape == (PREPROCESSING.height, PREPROCESSING.width, 3)
    assert photo.dtype == np.uint8
    red = photo[..., 0].astype(int) - photo[..., 1]
    assert red[:6, :6].mean() > 3 * red[-6:, -6:].mean() + 20


def test_photos_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    """Sub-folders are searched; files that are not images, or are truncated, are skipped."""
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name, content in {
        "a.png": grey(1),
        "b/a.txt": b"an elephant",
        "b/c/d.png": grey(2),
        "b/half.png": grey(3)[:60],
        "empty": b"",
        "z.bmp": grey(4),
    }.items():
        (tmp_path / name).write_bytes(content)
    assert grey_levels(tmp_path) == [1, 2, 4]


def test_limited_photos_are_spread_evenly(tmp_path: Path) -> None:
    """Also with an annotation file beside every image."""
    for level in range(60):
        (tmp_path / f"{level:03}.png").write_bytes(grey(level))
    assert grey_levels(tmp_path, 6) == [0, 10, 20, 30, 40, 50]
    assert grey_levels(tmp_path, 60) == grey_levels(tmp_path) == list(range(60))
    for level in range(60):
        (tmp_path / f"{level:03}.json").write_text("{}")
    assert grey_levels(tmp_path, 6) == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize("name", ["folder", "text", "absent"])
def test_folder_without_images_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.png").write_text("an elephant")
    with pytest.raises(BundleError, match=f"{name} holds no image"):
        next(read_photos(tmp_path / name, PREPROCESSING))
