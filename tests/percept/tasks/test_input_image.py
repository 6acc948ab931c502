"""A posted image becomes the network's pixels, and keeps the photo that they came from."""

from collections.abc import Callable

import numpy as np
import pytest

from percept.errors import BadParameter, BrokenImage, ImageTooLarge, NotAnImage
from percept.runtime.model import Model
from percept.settings import Settings
from percept.tasks.input_image import from_pixels, prepare
from percept.tasks.table import TASKS
from tests.photos import draw_marker, encode_photo

SETTINGS = Settings(max_image_bytes=100_000, max_image_pixels=1_000_000)
PHOTO = draw_marker((150, 110), (40, 30), 14)
Load = Callable[[str], Model]


@pytest.mark.parametrize("rule", ["squeeze", "crop", "pad"])
def test_prepared_image_has_the_input_size_of_the_network(load: Load, rule: str) -> None:
    image = prepare(load(f"classification-{rule}"), encode_photo(PHOTO), "id", SETTINGS)
    assert image.pixels.shape == (64, 48, 3)
    assert image.pixels.dtype == np.uint8
    assert image.geometry.size == image.photo.size == (150, 110)
    assert image.task is TASKS["classification"]
    assert image.id == "id"


def test_photo_is_the_decoded_image_upright(load: Load) -> None:
    image = prepare(load("classification-squeeze"), encode_photo(PHOTO, orientation=6), "id", SETTINGS)
    assert image.photo.tobytes() == PHOTO.tobytes()


def test_large_jpeg_is_decoded_in_full_only_for_the_photo(load: Load) -> None:
    large = encode_photo(draw_marker((1000, 800), (700, 200), 90), "JPEG")
    image = prepare(load("segmentation-squeeze"), large, "id", Settings())
    assert image.geometry.size == (1000, 800)
    assert image.photo.size == (1000, 800)
    assert image.photo is image.photo, "it is decoded once"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"no image", NotAnImage),
        (encode_photo(PHOTO)[:200], BrokenImage),
        (encode_photo(draw_marker((1001, 1000), (5, 5), 2), "JPEG", quality=1), ImageTooLarge),
    ],
)
def test_unusable_image_is_an_error(load: Load, data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        prepare(load("classification-squeeze"), data, "id", SETTINGS)


def test_pixels_of_the_input_size_are_the_whole_photo(load: Load) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    image = from_pixels(load("classification-crop"), pixels, "id")
    np.testing.assert_array_equal(np.asarray(image.photo), pixels)
    assert image.pixels is pixels
    assert image.geometry.seen == (0, 0, 48, 64)


@pytest.mark.parametrize("shape", [(48, 64, 3), (64, 48, 4), (64, 48)])
def test_pixels_of_another_shape_are_an_error(load: Load, shape: tuple[int, ...]) -> None:
    with pytest.raises(BadParameter, match=r"takes pixels of \[N, 64, 48, 3\]"):
        from_pixels(load("classification-crop"), np.zeros(shape, np.uint8), "id")
