"""Encoded bytes → an upright RGB photo → the pixels that a network takes, and the way back to the photo.

`Geometry` is the whole relation between the two: one rectangle of the photo, in photo pixels, that the network's
input covers. Crops make it smaller than the photo, padding larger; both ways are the same line of arithmetic.
Coordinates are continuous: pixel i covers [i, i+1), x runs right and y down. It knows no model and no HTTP.
"""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from percept import process
from percept.bundle.manifest import Preprocessing
from percept.errors import BrokenImage, ImageTooLarge, NotAnImage
from percept.imaging.geometry import Geometry, compute_geometry

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0")
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (UPRIGHT[5], UPRIGHT[6], UPRIGHT[7], UPRIGHT[8])


process.lift_pillow_pixel_limit()


def decode(data: bytes, max_bytes: int, max_pixels: int) -> Image.Image:
    """An encoded image as an upright `RGB` photo: the first frame, EXIF orientation applied, alpha over white.

    Raises `NotAnImage`, `BrokenImage`, or `ImageTooLarge` (known from the header, before any pixel is decoded).
    """
    return load(begin(data, max_bytes, max_pixels))


def decode_reduced(rule: Preprocessing, data: bytes, max_bytes: int, max_pixels: int) -> tuple[Image.Image, Geometry]:
    """As `decode`, but no finer than a network needs it, and the geometry of the photo in full.

    A JPEG that is much larger is decoded at a half, a quarter or an eighth of its size, from fewer of its frequencies,
    yet never below twice what the rule makes of it: then the input differs by less than its resampling does.
    """
    image = begin(data, max_bytes, max_pixels)
    view = compute_geometry(upright_size(image), rule)
    left, top, right, bottom = view.box
    spare = min((right - left) / rule.width, (bottom - top) / rule.height) / 2
    factor = max((k for k in (2, 4, 8) if k <= spare), default=1)
    image.draft(None, (max(1, image.width // factor), max(1, image.height // factor)))
    return load(image), view


def begin(data: bytes, max_bytes: int, max_pixels: int) -> Image.Image:
    """An encoded image of which the header is read and checked; raises as `decode`."""
    if len(data) > max_bytes:
        raise ImageTooLarge(f"the image has {len(data)} bytes; at most {max_bytes} are accepted")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if data.startswith(SIGNATURES):
            raise BrokenImage("the image's header is broken or cut short") from error
        raise NotAnImage(f"the bytes are no image; accepted are {', '.join(FORMATS)}") from error
    except Exception as error:  # a hostile header makes Pillow's parsers raise nearly anything
        raise BrokenImage(f"the image's header is broken: {error}") from error
    if image.width * image.height > max_pixels:
        raise ImageTooLarge(f"the image has {image.width} x {image.height} pixels; at most {max_pixels} are accepted")
    image.decodermaxblock = max(len(data), 1)  # in one go: between two pieces a thread waits for the interpreter again
    return image


def load(image: Image.Image) -> Image.Image:
    """The photo that was begun; raises `BrokenImage`."""
    try:
        image.load()
        return _upright(_rgb(image), image)
    except Exception as error:  # as above: OSError, ValueError, SyntaxError, struct.error, EOFError, …
        raise BrokenImage(f"the image cannot be decoded: {error}") from error


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the photo that `load` will give."""
    width, height = image.size
    return (height, width) if _turn(image) in SIDEWAYS else (width, height)


def _upright(photo: Image.Image, source: Image.Image) -> Image.Image:
    turn = _turn(source)
    return photo if turn is None else photo.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # broken EXIF is no reason to refuse good pixels
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image  # converting would copy it
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _deep(image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _deep(image: Image.Image) -> Image.Image:
    """More than 8 bits of grey to 8: 16 bit by its full range, anything wider by its own extremes."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else (values.min(), values.max())
    if image.mode == "I" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-12))).round().astype(np.uint8))
