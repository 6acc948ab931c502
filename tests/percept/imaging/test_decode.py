"""Bytes to photo to pixels and back."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from percept.bundle.manifest import Preprocessing
from percept.errors import BrokenImage, ImageTooLarge, NotAnImage
from percept.imaging.decode import UPRIGHT, decode, decode_reduced
from percept.imaging.geometry import compute_geometry, project_to_photo
from percept.imaging.preprocess import prepare
from tests.photos import encoded, marked

LIMITS = {"max_bytes": 10**7, "max_pixels": 10**6}
RULES = [
    Preprocessing(height=64, width=48),
    Preprocessing(height=64, width=48, resize="crop", short_side=72),
    Preprocessing(height=64, width=48, resize="pad"),
]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_format_is_decoded_to_rgb(kind: str) -> None:
    photo = decode(encoded(Image.new("RGB", (20, 10), (200, 30, 60)), kind), **LIMITS)
    assert (photo.mode, photo.size) == ("RGB", (20, 10))
    assert np.abs(np.asarray(photo).astype(int) - (200, 30, 60)).max() <= 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = marked((40, 24), (8, 6), 4)
    photo = decode(encoded(upright, kind, orientation), **LIMITS)
    assert photo.size == (40, 24)
    assert photo.getpixel((8, 6))[0] > photo.getpixel((30, 20))[0] + 50


def test_every_exif_photo_looks_the_same(shared) -> None:
    for shape in ("Landscape", "Portrait"):
        files = [shared / "images" / "exif" / f"{shape}_{k}.jpg" for k in range(1, 9)]
        photos = [np.asarray(decode(f.read_bytes(), 10**8, 10**8).resize((60, 60))).astype(int) for f in files]
        for photo in photos[1:]:
            assert np.abs(photo - photos[0]).mean() < 4


def test_sixteen_bit_grey_keeps_its_range() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        grey = np.asarray(decode(encoded(Image.fromarray(ramp), kind), **LIMITS))[:, :, 1].astype(int)
        assert np.abs(grey - ramp / 257).max() <= 1


def test_floating_point_tiff_is_stretched_to_its_own_range() -> None:
    ramp = np.linspace(-3, 5, 256, dtype=np.float32).reshape(16, 16)
    grey = np.asarray(decode(encoded(Image.fromarray(ramp), "TIFF"), **LIMITS))[:, :, 0]
    assert (grey.min(), grey.max()) == (0, 255)


def test_transparency_is_laid_over_white() -> None:
    glass = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert decode(encoded(glass), **LIMITS).getpixel((1, 1)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert decode(encoded(palette, transparency=0), **LIMITS).getpixel((1, 1)) == (255, 255, 255)
    assert decode(encoded(palette), **LIMITS).getpixel((1, 1)) == (255, 0, 0)


def test_cmyk_is_converted() -> None:
    cmyk = Image.new("RGB", (8, 8), (250, 10, 10)).convert("CMYK")
    for kind in ("JPEG", "TIFF"):
        red, green, _ = decode(encoded(cmyk, kind), **LIMITS).getpixel((4, 4))
        assert red > 230
        assert green < 40


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert decode(data, **LIMITS).getpixel((3, 3))[0] > 200


@pytest.mark.parametrize("data", [b"", b"hello", b"%PDF-1.4", b"\x00" * 100, b"<svg/>", b"P6\n1 1\n255\nabc"])
def test_what_is_no_image_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises((NotAnImage, BrokenImage)) as caught:
        decode(data, **LIMITS)
    assert caught.type is (BrokenImage if data.startswith(b"\0\0\0") else NotAnImage)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_a_truncated_image_is_broken(kind: str) -> None:
    data = encoded(marked((200, 150), (50, 50), 20), kind)
    for share in (0.05, 0.5, 0.9):
        with pytest.raises(BrokenImage):
            decode(data[: int(len(data) * share)], **LIMITS)


def test_too_many_pixels_are_refused_before_decoding() -> None:
    bomb = encoded(Image.new("1", (30000, 30000)), "PNG")
    header_only = bomb[:200]
    with pytest.raises(ImageTooLarge, match="30000 x 30000"):
        decode(header_only, **LIMITS)


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(ImageTooLarge, match="bytes"):
        decode(b"\xff\xd8\xff" + bytes(100), 100, 10**6)


@pytest.mark.parametrize("size", [(640, 480), (481, 641), (73, 300), (300, 200), (64, 64)])
def test_one_boxed_resize_is_resize_then_centre_crop(size: tuple[int, int]) -> None:
    rule = Preprocessing(height=64, width=64, resize="crop", short_side=80)
    photo = marked(size, (size[0] / 2, size[1] / 2), 12)
    width = 80 if size[0] <= size[1] else int(80 * size[0] / size[1])
    height = 80 if size[1] <= size[0] else int(80 * size[1] / size[0])
    left, top = round((width - 64) / 2), round((height - 64) / 2)
    twice = photo.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 64, top + 64))
    once = prepare(photo, compute_geometry(size, rule), rule)
    assert np.abs(once.astype(int) - np.asarray(twice)).max() <= 1


@pytest.mark.parametrize("orientation", [1, *UPRIGHT])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.resize)
def test_a_large_jpeg_is_decoded_small_and_seen_the_same(rule: Preprocessing, orientation: int) -> None:
    """Not below twice the input's size, the geometry in the photo's own pixels, the input nearly what it was."""
    data = encoded(marked((901, 700), (300, 250), 150), "JPEG", orientation)
    full = decode(data, **LIMITS)
    small, view = decode_reduced(rule, data, **LIMITS)
    assert view == compute_geometry((901, 700), rule) == compute_geometry(full.size, rule)
    assert 2 * small.width <= full.width + 2
    left, _, right, _ = view.resized(*small.size).box
    assert right - left >= 2 * rule.width
    off = prepare(small, view, rule).astype(int) - prepare(full, view, rule)
    assert np.abs(off).mean() < 1
    assert np.abs(off).max() < 60


@pytest.mark.parametrize(
    ("kind", "size"), [("JPEG", (190, 250)), ("JPEG", (2000, 40)), ("JPEG", (3, 3)), ("PNG", (900, 700))]
)
def test_what_is_no_large_jpeg_is_decoded_in_full(kind: str, size: tuple[int, int]) -> None:
    small, view = decode_reduced(RULES[0], encoded(marked(size, (1, 1), 1), kind), **LIMITS)
    assert small.size == view.size == size


@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    rule=st.sampled_from(RULES),
    cells=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_every_photo_is_prepared_and_its_map_comes_back_in_its_size(width, height, rule, cells) -> None:
    view = compute_geometry((width, height), rule)
    assert prepare(Image.new("RGB", (width, height)), view, rule).shape == (64, 48, 3)
    found = project_to_photo(np.ones(cells, np.float32), view)
    left, top, right, bottom = view.seen
    assert found.shape == (height, width)
    assert np.allclose(found[top:bottom, left:right], 1)
    assert np.isnan(found).sum() == width * height - (right - left) * (bottom - top)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.resize)
def test_padding_fills_what_the_photo_does_not_cover(rule: Preprocessing) -> None:
    pixels = prepare(Image.new("RGB", (400, 100), "white"), compute_geometry((400, 100), rule), rule)
    assert (pixels[0, 0] == (0 if rule.resize == "pad" else 255)).all()
    assert (pixels[32, 24] == 255).all()


def test_spread_is_the_usual_bilinear_interpolation() -> None:
    import torch

    values = np.random.default_rng(0).random((5, 7), np.float32)
    view = compute_geometry((70, 41), Preprocessing(height=32, width=32))
    ours = project_to_photo(values, view)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], size=(41, 70), mode="bilinear")
    assert np.abs(ours - theirs[0, 0].numpy()).max() < 1e-5


def test_a_place_in_a_map_is_found_in_the_photo() -> None:
    squeeze, crop, pad = (compute_geometry((400, 200), rule) for rule in RULES)
    assert squeeze.locate(0.5, 0.5, (2, 4)) == (50, 50)
    assert crop.locate(4, 4, (8, 8)) == pytest.approx((200, 100), abs=2)
    assert pad.locate(0, 0, (8, 8)) == (0, 0)
    assert pad.locate(4, 4, (8, 8)) == pytest.approx((200, 100))


def test_broken_exif_does_not_refuse_good_pixels() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(stream.getvalue(), **LIMITS).size == (8, 8)
