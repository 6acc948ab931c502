"""The mask of a segmenter is drawn in the colours of its bundle, alone or over the photo."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from percept.runtime.model import Model
from percept.settings import Settings
from percept.tasks.input_image import InputImage, prepare
from percept.tasks.mask_picture import MaskPicture, encode_mask
from tests.photos import draw_marker, encode_photo

PHOTO = draw_marker((150, 110), (40, 30), 14)
LOGITS = np.zeros((4, 16, 12), np.float32)
LOGITS[0] = 1
LOGITS[3, :, 6:] = 2  # the right half is blue


@pytest.fixture
def image(load: Callable[[str], Model]) -> InputImage:
    """The photo as the squeezing segmenter gets it."""
    return prepare(load("segmentation-squeeze"), encode_photo(PHOTO), "id", Settings())


def test_mask_is_indexed_and_as_large_as_the_photo(image: InputImage) -> None:
    drawn = Image.open(io.BytesIO(encode_mask(image, LOGITS, MaskPicture("png"))))
    assert (drawn.format, drawn.mode, drawn.size) == ("PNG", "P", (150, 110))
    labels = np.asarray(drawn)
    assert (labels[:, :70] == 0).all()
    assert (labels[:, 80:] == 3).all()
    assert drawn.convert("RGB").getpixel((140, 5)) == (0, 0, 255)


def test_overlay_mixes_photo_and_mask_outside_the_background(image: InputImage) -> None:
    drawn = Image.open(io.BytesIO(encode_mask(image, LOGITS, MaskPicture("png", "overlay", 0.5))))
    assert drawn.size == (150, 110)
    assert drawn.getpixel((5, 5)) == PHOTO.getpixel((5, 5)), "the background stays as it is"
    expected = np.asarray(PHOTO)[5, 140] / 2 + np.array([0, 0, 127.5])
    np.testing.assert_allclose(np.asarray(drawn)[5, 140], expected, atol=2)


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_overlay_is_encoded_in_the_requested_format(image: InputImage, format: str) -> None:
    drawn = Image.open(io.BytesIO(encode_mask(image, LOGITS, MaskPicture(format, "overlay"))))
    assert (drawn.format, drawn.size) == (format.upper(), (150, 110))
