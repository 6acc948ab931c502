"""Encoded bytes → an upright RGB photo.

Encoded bytes and the limits of the service come in; a Pillow image leaves, or an error that names what is wrong with
the bytes. It knows no model and no HTTP.
"""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from percept.bundle.manifest import Preprocessing
from percept.errors import BrokenImage, ImageTooLarge, NotAnImage
from percept.imaging.geometry import Geometry, compute_geometry
from percept.process import lift_pillow_pixel_limit

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0")
ORIENTATION = 0x0112  # the EXIF tag
# The transposition that turns a photo of each EXIF orientation upright.
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (TRANSPOSES[5], TRANSPOSES[6], TRANSPOSES[7], TRANSPOSES[8])

lift_pillow_pixel_limit()  # `_open` checks the size against the service's own limit


def decode(data: bytes, max_bytes: int, max_pixels: int) -> Image.Image:
    """Decode an image to an upright RGB photo: the first frame, EXIF orientation applied, transparency over white.

    Raises `NotAnImage`, `BrokenImage`, or `ImageTooLarge` (known from the header, before any pixel is decoded).
    """
    return _load(_open(data, max_bytes, max_pixels))


def decode_reduced(
    preprocessing: Preprocessing, data: bytes, max_bytes: int, max_pixels: int
) -> tuple[Image.Image, Geometry]:
    """Decode a photo at the resolution that a network needs; the geometry describes the photo at full size.

    Decodes a large JPEG at a half, a quarter or an eighth of its size, from fewer of its DCT coefficients, but never
    below twice the size of the network's input: the difference is then smaller than that between resampling filters.
    Every other image is decoded at full size. Raises as `decode`.
    """
    image = _open(data, max_bytes, max_pixels)
    sideways = _transpose_of(image) in SIDEWAYS
    geometry = compute_geometry((image.height, image.width) if sideways else image.size, preprocessing)
    left, top, right, bottom = geometry.box
    max_factor = min((right - left) / preprocessing.width, (bottom - top) / preprocessing.height) / 2
    factor = max((k for k in (2, 4, 8) if k <= max_factor), default=1)
    image.draft(None, (max(1, image.width // factor), max(1, image.height // factor)))
    return _load(image), geometry


def _open(data: bytes, max_bytes: int, max_pixels: int) -> Image.Image:
    """Read and check the header of an image; no pixel is decoded yet."""
    if len(data) > max_bytes:
        raise ImageTooLarge(f"the image has {len(data)} bytes; at most {max_bytes} are accepted")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if data.startswith(SIGNATURES):
            raise BrokenImage("the image's header is broken or truncated") from error
        raise NotAnImage(f"the bytes are not an image; accepted formats are {', '.join(FORMATS)}") from error
    except Exception as error:  # a hostile header can make Pillow's parsers raise nearly any exception
        raise BrokenImage(f"the image's header is broken: {error}") from error
    if image.width * image.height > max_pixels:
        raise ImageTooLarge(f"the image has {image.width} x {image.height} pixels; at most {max_pixels} are accepted")
    # Decode in one block: between two blocks the thread would have to wait for the interpreter lock.
    image.decodermaxblock = max(len(data), 1)
    return image


def _load(image: Image.Image) -> Image.Image:
    """Decode the pixels of an opened image."""
    try:
        image.load()
        # `convert` would copy an image that is RGB already.
        photo = image if image.mode == "RGB" and not image.has_transparency_data else _to_rgb(image)
        transpose = _transpose_of(image)
        return photo if transpose is None else photo.transpose(transpose)
    except Exception as error:  # OSError, ValueError, SyntaxError, struct.error, EOFError and more
        raise BrokenImage(f"the image cannot be decoded: {error}") from error


def _transpose_of(image: Image.Image) -> Image.Transpose | None:
    try:
        return TRANSPOSES.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # broken EXIF data do not make the pixels unusable
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _to_8_bits(image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale grey of more than 8 bits to 8: 16 bits by their full range, wider types by the image's own extremes."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else (values.min(), values.max())
    if image.mode == "I" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-12))).round().astype(np.uint8))
