"""Pillow's modes → RGB: grey of every type, and transparency of every kind, with values that the formats define."""

import struct
import zlib
from collections.abc import Iterable
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from percept.bundle.preprocessing import Preprocessing
from percept.errors import NotAnImage
from percept.imaging.decode import decode, decode_reduced
from tests.photos import encode_photo, encode_tiff

SHAPE = (4, 8)
LIMITS = 10**7, 10**6
RGBA = Preprocessing(height=2, width=2, channels="RGBA")
FLOATS = np.linspace(-3, 5, 32, dtype=np.float32).reshape(SHAPE)
LEVELS = np.linspace(0, 255, 32).reshape(SHAPE)  # FLOATS by their extremes


def decode_grey(data: bytes) -> NDArray[np.int_]:
    """The grey levels [H,W] of an image whose channels are equal."""
    pixels = np.asarray(decode(data, 10**7, 10**6)).astype(int)
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0]


def encode_png(bits: int, colour: int, rows: Iterable[bytes], transparent: bytes) -> bytes:
    """A PNG file of SHAPE with a transparent colour, which Pillow cannot write for most bit depths."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SHAPE[1], SHAPE[0], bits, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", transparent) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_transparent_grey_of_png_becomes_white(bits: int) -> None:
    top = 2**bits - 1
    values = np.random.default_rng(bits).integers(0, top, SHAPE, endpoint=True)
    key = int(values[1, 2])
    if bits == 16:
        values[0, 0] = key ^ 1  # nearly the transparent grey
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        digits = (values[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
        rows = [np.packbits(row.ravel()).tobytes() for row in digits]
    grey = decode_grey(encode_png(bits, 0, rows, struct.pack(">H", key)))
    assert np.abs(grey - np.where(values == key, 255, values * (255 / top))).max() <= 0.5


@pytest.mark.parametrize("bits", [8, 16])
def test_transparent_colour_of_png_becomes_white(bits: int) -> None:
    colours = np.random.default_rng(bits).integers(0, 2**bits, (*SHAPE, 3))
    key = colours[2, 3]
    rows = [row.astype(f">u{bits // 8}").tobytes() for row in colours]
    photo = np.asarray(decode(encode_png(bits, 2, rows, struct.pack(">HHH", *key)), 10**7, 10**6))
    expected = np.where((colours == key).all(2, keepdims=True), 255, colours / (1 if bits == 8 else 257))
    assert np.abs(photo - expected).max() <= 1


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compressed", [False, True])
def test_sixteen_bit_tiff_is_scaled_by_its_full_range(order: Literal["<", ">"], compressed: bool) -> None:
    values = np.linspace(1000, 40000, 32).astype(np.uint16).reshape(SHAPE)
    grey = decode_grey(encode_tiff(values, order=order, compressed=compressed))
    assert np.abs(grey - values / 257).max() <= 0.5


def test_twelve_bit_tiff_is_scaled_by_its_full_range() -> None:
    values = np.linspace(100, 4000, 32).astype(int).reshape(SHAPE)
    digits = (values[:, :, None] >> np.arange(11, -1, -1)) & 1
    packed = np.packbits(digits.reshape(SHAPE[0], -1), axis=1)
    grey = decode_grey(encode_tiff(packed, width=SHAPE[1], bits=12))
    assert np.abs(grey - values * (255 / 4095)).max() <= 0.5


@pytest.mark.parametrize("values", [LEVELS.round().astype(np.uint8), (LEVELS * 257).astype(np.uint16), FLOATS])
@pytest.mark.parametrize("compressed", [False, True])
def test_tiff_with_zero_as_white_is_inverted(values: NDArray[np.generic], compressed: bool) -> None:
    grey = decode_grey(encode_tiff(values, zero_is_white=True, compressed=compressed))
    assert np.abs(grey - (255 - LEVELS)).max() <= 1


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "u4", "f4"])
def test_grey_of_other_types_is_scaled_by_its_extremes(dtype: str, order: Literal["<", ">"], compressed: bool) -> None:
    if (dtype, order) == ("u4", ">"):
        pytest.skip("Pillow does not open it")
    low, high = (-7.5, 9000.25) if dtype == "f4" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    values = (low + LEVELS / 255 * (float(high) - low)).astype(dtype)
    grey = decode_grey(encode_tiff(values, order=order, compressed=compressed))
    assert np.abs(grey - LEVELS).max() <= 1


def test_small_unsigned_32_bit_grey_is_scaled_by_its_extremes() -> None:
    assert np.abs(decode_grey(encode_tiff(LEVELS.astype(np.uint32))) - LEVELS).max() <= 1


@pytest.mark.parametrize(("value", "level"), [(np.nan, 0), (-np.inf, 0), (np.inf, 255)])
def test_values_that_are_not_finite_are_left_out_of_the_scale(value: float, level: int) -> None:
    values = FLOATS + 1000
    values[2, 2] = value
    expected = LEVELS.copy()
    expected[2, 2] = level
    assert np.abs(decode_grey(encode_tiff(values)) - expected).max() <= 1


@pytest.mark.parametrize("value", [7.25, np.nan])
def test_grey_without_extremes_is_black(value: float) -> None:
    assert not decode_grey(encode_tiff(np.full(SHAPE, value, np.float32))).any()


@pytest.mark.parametrize("premultiplied", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_tiff_lies_over_white(channels: int, premultiplied: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*SHAPE, channels + 1)).astype(np.uint8)
    colour, alpha = pixels[:, :, :-1].astype(float), pixels[:, :, -1:] / 255
    if premultiplied:
        pixels[:, :, :-1] = (colour * alpha).round()
    try:
        photo = np.asarray(decode(encode_tiff(pixels, extra=1 if premultiplied else 2), *LIMITS))
    except NotAnImage:
        assert (channels, premultiplied) == (1, True)
        pytest.skip("this version of Pillow does not open it")
    assert np.abs(photo - (colour * alpha + 255 * (1 - alpha))).max() <= 2


def test_alpha_of_bmp_lies_over_white() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*SHAPE, 4)).astype(np.uint8)
    masks = (0xFF << shift for shift in (0, 8, 16, 24))
    header = struct.pack("<IiiHHIIiiII4I", 108, SHAPE[1], -SHAPE[0], 1, 32, 3, 0, 0, 0, 0, 0, *masks)
    data = b"BM" + struct.pack("<IHHI", 0, 0, 0, 122) + header.ljust(108, b"\0") + pixels.tobytes()
    alpha = pixels[:, :, 3:] / 255
    photo = np.asarray(decode(data, 10**7, 10**6))
    assert np.abs(photo - (pixels[:, :, :3] * alpha + 255 * (1 - alpha))).max() <= 1


def test_part_of_a_gif_outside_its_first_frame_is_transparent() -> None:
    small = Image.new("P", (3, 2), 1)
    small.putpalette([0, 0, 255, 255, 0, 0])
    data = encode_photo(small, "GIF", transparency=0, optimize=False)
    data = data[:6] + struct.pack("<HH", 6, 4) + data[10:]  # a larger screen
    photo = decode(data, 10**7, 10**6)
    assert photo.size == (6, 4)
    assert (photo.getpixel((1, 1)), photo.getpixel((5, 3))) == ((255, 0, 0), (255, 255, 255))


def test_network_that_takes_alpha_gets_the_colours_below_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 4), np.uint8)
    found, _ = decode_reduced(RGBA, encode_photo(Image.fromarray(pixels)), *LIMITS)
    np.testing.assert_array_equal(np.asarray(found), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_opaque_photo_has_full_alpha(kind: str) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8))
    data = encode_photo(photo, kind)
    found, _ = decode_reduced(RGBA, data, *LIMITS)
    assert found.getchannel("A").getextrema() == (255, 255)
    assert found.convert("RGB").tobytes() == decode(data, *LIMITS).tobytes()


def test_transparent_colour_becomes_alpha() -> None:
    photo = Image.new("RGB", (2, 1), (10, 20, 30))
    photo.putpixel((1, 0), (40, 50, 60))
    found, _ = decode_reduced(RGBA, encode_photo(photo, transparency=(10, 20, 30)), *LIMITS)
    assert found.tobytes() == bytes([10, 20, 30, 0, 40, 50, 60, 255])


def test_transparent_sixteen_bit_grey_keeps_its_level_below_alpha() -> None:
    values = np.random.default_rng(3).integers(0, 2**16, SHAPE)
    key = int(values[1, 2])
    data = encode_png(16, 0, [row.astype(">u2").tobytes() for row in values], struct.pack(">H", key))
    found = np.asarray(decode_reduced(RGBA, data, *LIMITS)[0]).astype(int)
    assert np.abs(found[:, :, :3] - values[:, :, None] / 257).max() <= 0.5
    np.testing.assert_array_equal(found[:, :, 3], np.where(values == key, 0, 255))
