"""Preprocessing: the network's input has its size, and equals what torchvision's transforms would give."""

import numpy as np
import pytest
from PIL import Image

from percept.bundle.preprocessing import Channels, Preprocessing
from percept.imaging.geometry import compute_geometry
from percept.imaging.preprocess import prepare, to_picture
from tests.photos import draw_marker


@pytest.mark.parametrize("size", [(640, 480), (481, 641), (73, 300), (300, 200), (64, 64)])
def test_crop_equals_resize_then_centre_crop(size: tuple[int, int]) -> None:
    rule = Preprocessing(height=64, width=64, resize="crop", short_side=80)
    photo = draw_marker(size, (size[0] / 2, size[1] / 2), 12)
    width = 80 if size[0] <= size[1] else int(80 * size[0] / size[1])
    height = 80 if size[1] <= size[0] else int(80 * size[1] / size[0])
    left, top = round((width - 64) / 2), round((height - 64) / 2)
    twice = photo.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 64, top + 64))
    once = prepare(photo, compute_geometry(size, rule), rule)
    assert np.abs(once.astype(int) - np.asarray(twice)).max() <= 1


@pytest.mark.parametrize(("resize", "corner"), [("squeeze", 255), ("crop", 255), ("pad", 0)])
def test_only_padding_fills_uncovered_pixels(resize: str, corner: int) -> None:
    rule = Preprocessing(height=64, width=48, resize=resize, short_side=72)
    pixels = prepare(Image.new("RGB", (400, 100), "white"), compute_geometry((400, 100), rule), rule)
    assert (pixels[0, 0] == corner).all()
    assert (pixels[32, 24] == 255).all()


@pytest.mark.parametrize("resize", ["squeeze", "crop", "pad"])
def test_reduced_photo_gives_nearly_the_same_input(resize: str) -> None:
    """The geometry may be that of the photo before it was reduced."""
    rule = Preprocessing(height=64, width=48, resize=resize, short_side=72)
    photo = draw_marker((400, 300), (180, 150), 60)
    geometry = compute_geometry(photo.size, rule)
    difference = prepare(photo.reduce(2), geometry, rule).astype(int) - prepare(photo, geometry, rule)
    assert np.abs(difference).mean() < 2


def test_input_may_extend_beyond_a_resized_photo() -> None:
    """Its pixels lie in the centre, the fill around them; what is outside the input is cropped."""
    rule = Preprocessing(height=8, width=8, resize="crop", resize_size=(5, 5), fill=(1, 2, 3))
    photo = draw_marker((10, 20), (5, 10), 4)
    pixels = prepare(photo, compute_geometry(photo.size, rule), rule)
    resized = np.asarray(photo.resize((5, 10), Image.Resampling.BILINEAR))
    assert (pixels[:, 1:6] == resized[1:9]).all()
    assert (pixels[:, [0, 6, 7]] == (1, 2, 3)).all()


def test_extremely_long_photo_is_not_resized_as_a_whole() -> None:
    """It would have 256 x 2,560,000 pixels; the part that the network sees is nearly the same."""
    rule = Preprocessing(height=224, width=224, resize="crop", resize_size=(256, 256))
    strip = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10000, 1, 3), np.uint8))
    middle = strip.crop((0, 4950, 1, 5050))  # of the same scale, and small enough
    pixels, expected = (prepare(photo, compute_geometry(photo.size, rule), rule) for photo in (strip, middle))
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_grey_is_the_luma_of_the_photo() -> None:
    rule = Preprocessing(height=20, width=30, channels="GRAY")
    photo = draw_marker((90, 60), (40, 30), 15)
    expected = np.asarray(photo.convert("L").resize((30, 20), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(prepare(photo, compute_geometry(photo.size, rule), rule), expected[:, :, None])


def test_grey_photo_keeps_its_values() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    photo = Image.fromarray(grey).convert("RGB")
    rule = Preprocessing(height=16, width=16, channels="GRAY")
    np.testing.assert_array_equal(prepare(photo, compute_geometry((16, 16), rule), rule)[:, :, 0], grey)


@pytest.mark.parametrize(("channels", "padding"), [("GRAY", [76]), ("RGB", [255, 0, 0]), ("RGBA", [255, 0, 0, 255])])
def test_padding_has_the_fill_colour_in_every_mode(channels: Channels, padding: list[int]) -> None:
    """It is opaque in RGBA, and its luma in grey."""
    rule = Preprocessing(height=32, width=32, resize="pad", fill=(255, 0, 0), channels=channels)
    pixels = prepare(Image.new("RGB", (40, 10), "blue"), compute_geometry((40, 10), rule), rule)
    assert pixels.shape == rule.shape
    assert pixels[0, 0].tolist() == padding


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_pixels_become_a_picture(channels: int, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    picture = to_picture(pixels)
    assert (picture.mode, picture.size) == (mode, (7, 5))
    np.testing.assert_array_equal(np.asarray(picture).reshape(pixels.shape), pixels)
