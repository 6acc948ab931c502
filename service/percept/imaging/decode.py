"""Encoded bytes → an upright RGB photo → the pixels that a network takes, and the way back to the photo.

`Geometry` is the whole relation between the two: one rectangle of the photo, in photo pixels, that the network's
input covers. Crops make it smaller than the photo, padding larger; both ways are the same line of arithmetic.
Coordinates are continuous: pixel i covers [i, i+1), x runs right and y down. It knows no model and no HTTP.
"""

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from percept.bundle.manifest import Preprocessing
from percept.errors import BrokenImage, ImageTooLarge, NotAnImage

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

# The class of what the network never saw, in masks.
UNSEEN = 255

# The limit is checked here, from the header and by setting; Pillow's own would only warn.
Image.MAX_IMAGE_PIXELS = None

Box = tuple[float, float, float, float]
Pixels = NDArray[np.uint8]
Map = NDArray[np.float32]


@dataclass(frozen=True)
class Geometry:
    """A photo of width x height pixels, and the rectangle (left, top, right, bottom) of it that the network sees."""

    width: int
    height: int
    box: Box

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the photo."""
        return self.width, self.height

    @property
    def seen(self) -> tuple[int, int, int, int]:
        """The photo pixels whose centres lie inside the box, as (left, top, right, bottom), never empty."""
        left, right = _whole(self.box[0], self.box[2], self.width)
        top, bottom = _whole(self.box[1], self.box[3], self.height)
        return left, top, right, bottom

    def locate(self, row: float, column: float, shape: tuple[int, int]) -> tuple[float, float]:
        """The photo point (x, y) of a continuous position in a map of `shape` (h, w), kept inside the photo."""
        left, top, right, bottom = self.box
        x = left + column / shape[1] * (right - left)
        y = top + row / shape[0] * (bottom - top)
        return min(max(x, 0.0), float(self.width)), min(max(y, 0.0), float(self.height))

    def find(self, x: float, y: float, shape: tuple[int, int]) -> tuple[float, float]:
        """The continuous position (row, column) in a map of `shape` (h, w) of a photo point: `locate` the other way."""
        left, top, right, bottom = self.box
        return (y - top) / (bottom - top) * shape[0], (x - left) / (right - left) * shape[1]

    def scaled(self, factor: float) -> "Geometry":
        """The same view of the photo at another size."""
        return self.resized(max(1, round(self.width * factor)), max(1, round(self.height * factor)))

    def resized(self, width: int, height: int) -> "Geometry":
        """The same view of the photo in so many pixels."""
        fx, fy = width / self.width, height / self.height
        left, top, right, bottom = self.box
        return Geometry(width, height, (left * fx, top * fy, right * fx, bottom * fy))


def decode(data: bytes, max_bytes: int, max_pixels: int) -> Image.Image:
    """An encoded image as an upright `RGB` photo: the first frame, EXIF orientation applied, alpha over white.

    Raises `NotAnImage`, `BrokenImage`, or `ImageTooLarge` (known from the header, before any pixel is decoded).
    """
    return load(begin(data, max_bytes, max_pixels))


def decode_for(rule: Preprocessing, data: bytes, max_bytes: int, max_pixels: int) -> tuple[Image.Image, Geometry]:
    """As `decode`, but no finer than a network needs it, and the geometry of the photo in full.

    A JPEG that is much larger is decoded at a half, a quarter or an eighth of its size, from fewer of its frequencies,
    yet never below twice what the rule makes of it: then the input differs by less than its resampling does.
    """
    image = begin(data, max_bytes, max_pixels)
    view = geometry(upright_size(image), rule)
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


def geometry(size: tuple[int, int], rule: Preprocessing) -> Geometry:
    """The geometry of a photo of `size` (width, height) under the rule of a bundle."""
    width, height = size
    return Geometry(width, height, BOXES[rule.resize](width, height, rule))


def prepare(photo: Image.Image, view: Geometry, rule: Preprocessing) -> Pixels:
    """The network's input for a photo: uint8 [H,W,3] RGB, by one resampling from the photo's own pixels.

    The photo may have been decoded smaller than `view` says.
    """
    if photo.size != view.size:
        view = view.resized(*photo.size)
    left, top, right, bottom = view.box
    size = (rule.width, rule.height)
    filter_ = Image.Resampling[rule.interpolation.upper()]
    if left >= 0 and top >= 0 and right <= view.width and bottom <= view.height:
        return np.asarray(photo.resize(size, filter_, box=view.box))
    # Padding: the whole photo is scaled to its place inside the input.
    x0, x1 = (round((x - left) / (right - left) * rule.width) for x in (0, view.width))
    y0, y1 = (round((y - top) / (bottom - top) * rule.height) for y in (0, view.height))
    canvas = Image.new("RGB", size, rule.fill)
    canvas.paste(photo.resize((max(1, x1 - x0), max(1, y1 - y0)), filter_), (x0, y0))
    return np.asarray(canvas)


def spread(values: Map, view: Geometry) -> Map:
    """A map [h,w] over the network's input, bilinearly laid over the photo: [height,width], NaN where not seen."""
    left, top, right, bottom = view.seen
    seen = enlarged(values, view)
    if seen.shape == (view.height, view.width):
        return seen
    photo = np.full((view.height, view.width), np.nan, np.float32)
    photo[top:bottom, left:right] = seen
    return photo


def enlarged(values: Map, view: Geometry) -> Map:
    """A map [h,w] over the network's input, bilinearly laid over what is seen of the photo: of the size of that box."""
    left, top, right, bottom = view.seen
    h, w = values.shape
    fx, fy = w / (view.box[2] - view.box[0]), h / (view.box[3] - view.box[1])
    source = (
        max(0.0, (left - view.box[0]) * fx),
        max(0.0, (top - view.box[1]) * fy),
        min(float(w), (right - view.box[0]) * fx),
        min(float(h), (bottom - view.box[1]) * fy),
    )
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=source))


def _squeeze(width: int, height: int, rule: Preprocessing) -> Box:
    return 0.0, 0.0, float(width), float(height)


def _crop(width: int, height: int, rule: Preprocessing) -> Box:
    """Short side to `short_side`, then the middle: rounded as torchvision's Resize and CenterCrop round."""
    short = rule.short_side or min(rule.width, rule.height)
    scaled_width = short if width <= height else int(short * width / height)
    scaled_height = short if height <= width else int(short * height / width)
    left, top = round((scaled_width - rule.width) / 2), round((scaled_height - rule.height) / 2)
    fx, fy = width / scaled_width, height / scaled_height
    right, bottom = (left + rule.width) * fx, (top + rule.height) * fy
    return left * fx, top * fy, min(right, width), min(bottom, height)


def _pad(width: int, height: int, rule: Preprocessing) -> Box:
    scale = max(width / rule.width, height / rule.height)
    dx, dy = (rule.width * scale - width) / 2, (rule.height * scale - height) / 2
    return -dx, -dy, width + dx, height + dy


BOXES = {"squeeze": _squeeze, "crop": _crop, "pad": _pad}


def _whole(low: float, high: float, limit: int) -> tuple[int, int]:
    first = min(max(0, math.ceil(low - 0.5)), limit - 1)
    return first, max(first + 1, min(limit, math.floor(high + 0.5)))


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
