"""Encoded bytes → an upright RGB photo.

Encoded bytes and the limits of the service come in; a Pillow image leaves, or an error that names what is wrong with
the bytes. It knows no model and no HTTP.
"""

import io

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from percept.bundle.preprocessing import Preprocessing
from percept.errors import BrokenImage, ImageTooLarge
from percept.imaging import tiff
from percept.imaging.colour import scale_transparency, to_rgb, to_rgba
from percept.imaging.formats import FORMATS, explain_unopened
from percept.imaging.geometry import Geometry, compute_geometry
from percept.process import lift_pillow_limits

REDUCIBLE = ("JPEG", "MPO")  # MPO is Pillow's name of a JPEG file with several images
# A JPEG is decoded at reduced size for inputs of at least this side, and stays this many times as large as the input.
# With 2 instead of 4, or inputs of 32 pixels, 6 to 8 of 100 photos get another class; so 0 to 2 do.
REDUCED_SIDE = 128
REDUCED_MARGIN = 4
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
CONVERSIONS = {"RGB": to_rgb, "RGBA": to_rgba}

lift_pillow_limits()  # `_open` checks the size against the service's own limit


def decode(data: bytes, max_bytes: int, max_pixels: int) -> Image.Image:
    """Decode an image to an upright RGB photo: the first frame, EXIF orientation applied, transparency over white.

    Raises `NotAnImage`, `BrokenImage`, or `ImageTooLarge` (known from the header, before any pixel is decoded).
    """
    return _load(_open(data, max_bytes, max_pixels), "RGB")


def decode_reduced(
    preprocessing: Preprocessing, data: bytes, max_bytes: int, max_pixels: int
) -> tuple[Image.Image, Geometry]:
    """Decode a photo at the resolution that a network needs; the geometry describes the photo at full size.

    Decodes a large JPEG at a half, a quarter or an eighth of its size, from fewer of its DCT coefficients, if the
    input has at least `REDUCED_SIDE` pixels and no `resize_size`, and never below `REDUCED_MARGIN` times the input.
    Every other image is decoded at full size. The photo is RGBA if the network takes an alpha. Raises as `decode`.
    """
    mode = "RGBA" if preprocessing.channels == "RGBA" else "RGB"
    image = _open(data, max_bytes, max_pixels)
    small = min(preprocessing.width, preprocessing.height) < REDUCED_SIDE
    if image.format not in REDUCIBLE or small or preprocessing.resize_size:
        photo = _load(image, mode)
        return photo, compute_geometry(photo.size, preprocessing)
    sideways = _transpose_of(image) in SIDEWAYS
    geometry = compute_geometry((image.height, image.width) if sideways else image.size, preprocessing)
    left, top, right, bottom = geometry.box
    ratio = min((right - left) / preprocessing.width, (bottom - top) / preprocessing.height)
    factor = max((k for k in (2, 4, 8) if k * REDUCED_MARGIN <= ratio), default=1)
    image.draft(None, (max(1, image.width // factor), max(1, image.height // factor)))
    return _load(image, mode), geometry


def _open(data: bytes, max_bytes: int, max_pixels: int) -> ImageFile:
    """Read and check the header of an image; no pixel is decoded yet."""
    if len(data) > max_bytes:
        raise ImageTooLarge(f"the image has {len(data)} bytes; at most {max_bytes} are accepted")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise explain_unopened(data) from error
    except Exception as error:  # a hostile header can make Pillow's parsers raise nearly any exception
        raise explain_unopened(data, str(error)) from error
    if image.width * image.height > max_pixels:
        raise ImageTooLarge(f"the image has {image.width} x {image.height} pixels; at most {max_pixels} are accepted")
    if image.format in ("TIFF", "PNG"):
        _correct_metadata(image)
    # Decode in one block: between two blocks the thread would have to wait for the interpreter lock.
    image.decodermaxblock = max(len(data), 1)
    return image


def _correct_metadata(image: ImageFile) -> None:
    """Correct what Pillow would decode wrongly; raises `NotAnImage` where that is impossible."""
    try:
        if image.format == "TIFF":
            tiff.check_layout(image)
        elif "transparency" in image.info:
            scale_transparency(image)
    except (TypeError, ValueError, LookupError) as error:  # tags of the wrong types
        raise BrokenImage(f"the image's header is broken: {error}") from error


def _load(image: Image.Image, mode: str) -> Image.Image:
    """Decode the pixels of an opened image to RGB or RGBA."""
    try:
        image.load()
        # `convert` would copy an image that is RGB already.
        is_rgb = image.mode == mode == "RGB" and not image.has_transparency_data
        photo = image if is_rgb else CONVERSIONS[mode](image)
        transpose = _transpose_of(image)
        return photo if transpose is None else photo.transpose(transpose)
    except Exception as error:  # OSError, ValueError, SyntaxError, struct.error, EOFError and more
        raise BrokenImage(f"the image cannot be decoded: {error}") from error


def _transpose_of(image: Image.Image) -> Image.Transpose | None:
    if image.format == "JXL":  # its decoder applies the orientation, and EXIF data repeat it
        return None
    try:
        return TRANSPOSES.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # broken EXIF data do not make the pixels unusable
        return None
