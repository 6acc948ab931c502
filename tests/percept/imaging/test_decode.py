"""Decoding: every format, mode and orientation becomes an upright RGB photo, broken bytes an error with the reason."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from percept.bundle.manifest import Preprocessing
from percept.errors import BrokenImage, ImageTooLarge, NotAnImage
from percept.imaging.decode import FORMATS, TRANSPOSES, decode, decode_reduced
from percept.imaging.geometry import compute_geometry
from percept.imaging.preprocess import prepare
from tests.photos import draw_marker, encode_photo

LIMITS = {"max_bytes": 10**7, "max_pixels": 10**6}
RULES = {
    "squeeze": Preprocessing(height=64, width=48),
    "crop": Preprocessing(height=64, width=48, resize="crop", short_side=72),
    "pad": Preprocessing(height=64, width=48, resize="pad"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_decoded_to_rgb(kind: str) -> None:
    photo = decode(encode_photo(Image.new("RGB", (20, 10), (200, 30, 60)), kind), **LIMITS)
    assert (photo.mode, photo.size) == ("RGB", (20, 10))
    assert np.abs(np.asarray(photo).astype(int) - (200, 30, 60)).max() <= 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = draw_marker((40, 24), (8, 6), 4)
    photo = decode(encode_photo(upright, kind, orientation), **LIMITS)
    assert photo.size == (40, 24)
    red = np.asarray(photo.getchannel("R")).astype(int)
    assert red[6, 8] > red[20, 30] + 50


def test_exif_photos_of_all_orientations_look_the_same(shared: Path) -> None:
    for shape in ("Landscape", "Portrait"):
        files = [shared / "images" / "exif" / f"{shape}_{k}.jpg" for k in range(1, 9)]
        photos = [np.asarray(decode(f.read_bytes(), 10**8, 10**8).resize((60, 60))).astype(int) for f in files]
        for photo in photos[1:]:
            assert np.abs(photo - photos[0]).mean() < 4


def test_sixteen_bit_grey_keeps_its_range() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        grey = np.asarray(decode(encode_photo(Image.fromarray(ramp), kind), **LIMITS))[:, :, 1].astype(int)
        assert np.abs(grey - ramp / 257).max() <= 1


def test_floating_point_tiff_is_scaled_to_its_own_range() -> None:
    ramp = np.linspace(-3, 5, 256, dtype=np.float32).reshape(16, 16)
    grey = np.asarray(decode(encode_photo(Image.fromarray(ramp), "TIFF"), **LIMITS))[:, :, 0]
    assert (grey.min(), grey.max()) == (0, 255)


def test_transparent_pixels_become_white() -> None:
    transparent = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert decode(encode_photo(transparent), **LIMITS).getpixel((1, 1)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert decode(encode_photo(palette, transparency=0), **LIMITS).getpixel((1, 1)) == (255, 255, 255)
    assert decode(encode_photo(palette), **LIMITS).getpixel((1, 1)) == (255, 0, 0)


def test_cmyk_is_converted_to_rgb() -> None:
    cmyk = Image.new("RGB", (8, 8), (250, 10, 10)).convert("CMYK")
    for kind in ("JPEG", "TIFF"):
        red, green, _ = np.asarray(decode(encode_photo(cmyk, kind), **LIMITS))[4, 4]
        assert red > 230
        assert green < 40


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP"):
        data = encode_photo(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.asarray(decode(data, **LIMITS))[3, 3, 0] > 200


@pytest.mark.parametrize("data", [b"", b"hello", b"%PDF-1.4", b"\x00" * 100, b"<svg/>", b"P6\n1 1\n255\nabc"])
def test_bytes_that_are_not_an_image_are_rejected(data: bytes) -> None:
    with pytest.raises((NotAnImage, BrokenImage)) as caught:
        decode(data, **LIMITS)
    assert caught.type is (BrokenImage if data.startswith(b"\0\0\0") else NotAnImage)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_truncated_image_is_broken(kind: str) -> None:
    data = encode_photo(draw_marker((200, 150), (50, 50), 20), kind)
    for share in (0.05, 0.5, 0.9):
        with pytest.raises(BrokenImage):
            decode(data[: int(len(data) * share)], **LIMITS)


def test_too_many_pixels_are_rejected_from_the_header() -> None:
    bomb = encode_photo(Image.new("1", (30000, 30000)), "PNG")
    header_only = bomb[:200]
    with pytest.raises(ImageTooLarge, match="30000 x 30000"):
        decode(header_only, **LIMITS)


def test_too_many_bytes_are_rejected() -> None:
    with pytest.raises(ImageTooLarge, match="bytes"):
        decode(b"\xff\xd8\xff" + bytes(100), 100, 10**6)


def test_broken_exif_is_ignored() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(stream.getvalue(), **LIMITS).size == (8, 8)


@pytest.mark.parametrize("orientation", [1, *TRANSPOSES])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_large_jpeg_is_reduced_with_nearly_the_same_input(rule: Preprocessing, orientation: int) -> None:
    """It stays at least twice as large as the input, and the geometry is that of the whole photo."""
    data = encode_photo(draw_marker((901, 700), (300, 250), 150), "JPEG", orientation)
    full = decode(data, **LIMITS)
    reduced, geometry = decode_reduced(rule, data, **LIMITS)
    assert geometry == compute_geometry((901, 700), rule) == compute_geometry(full.size, rule)
    assert 2 * reduced.width <= full.width + 2
    left, _, right, _ = geometry.resized(*reduced.size).box
    assert right - left >= 2 * rule.width
    difference = prepare(reduced, geometry, rule).astype(int) - prepare(full, geometry, rule)
    assert np.abs(difference).mean() < 1
    assert np.abs(difference).max() < 60


@pytest.mark.parametrize(
    ("kind", "size"), [("JPEG", (190, 250)), ("JPEG", (2000, 40)), ("JPEG", (3, 3)), ("PNG", (900, 700))]
)
def test_small_jpeg_and_png_are_decoded_in_full(kind: str, size: tuple[int, int]) -> None:
    photo, geometry = decode_reduced(RULES["squeeze"], encode_photo(draw_marker(size, (1, 1), 1), kind), **LIMITS)
    assert photo.size == geometry.size == size
