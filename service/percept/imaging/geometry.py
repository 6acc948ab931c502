"""The relation between a photo and the network's input, and the projection of maps onto the photo.

A `Geometry` is the rectangle of the photo, in photo pixels, that the network's input covers. It is smaller than the
photo if the preprocessing crops, and larger if it pads; the same arithmetic serves both.
Coordinates are continuous: pixel i covers [i, i+1), x runs right and y down. It knows no model and no HTTP.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percept.bundle.preprocessing import Preprocessing

Box = tuple[float, float, float, float]  # left, top, right, bottom
Pixels = NDArray[np.uint8]  # an image [H,W,C], or labels or levels [H,W]
Map = NDArray[np.float32]  # any float32 array of a network: a map [h,w], activations [C,h,w], logits [K] or [K,h,w]

MAX_RESIZED_PIXELS = 2**24  # of a photo that is resized as a whole; one in extreme proportions would be gigantic

# The label, in masks, of the pixels that the network does not see.
UNSEEN = 255


@dataclass(frozen=True)
class Geometry:
    """A photo of width x height pixels, and the box of it that the network's input covers."""

    width: int
    height: int
    box: Box

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the photo."""
        return self.width, self.height

    @property
    def seen(self) -> tuple[int, int, int, int]:
        """The photo pixels whose centres lie inside the box, as (left, top, right, bottom); never empty."""
        left, right = _covered_pixels(self.box[0], self.box[2], self.width)
        top, bottom = _covered_pixels(self.box[1], self.box[3], self.height)
        return left, top, right, bottom

    def to_photo(self, row: float, column: float, shape: tuple[int, int]) -> tuple[float, float]:
        """The photo point (x, y) of a continuous position in a map of `shape` (h, w), clipped to the photo."""
        left, top, right, bottom = self.box
        x = left + column / shape[1] * (right - left)
        y = top + row / shape[0] * (bottom - top)
        return min(max(x, 0.0), float(self.width)), min(max(y, 0.0), float(self.height))

    def to_map(self, x: float, y: float, shape: tuple[int, int]) -> tuple[float, float]:
        """The continuous position (row, column) of a photo point in a map of `shape` (h, w); inverts `to_photo`."""
        left, top, right, bottom = self.box
        return (y - top) / (bottom - top) * shape[0], (x - left) / (right - left) * shape[1]

    def scaled(self, factor: float) -> "Geometry":
        """The geometry of the photo scaled by a factor."""
        return self.resized(max(1, round(self.width * factor)), max(1, round(self.height * factor)))

    def resized(self, width: int, height: int) -> "Geometry":
        """The geometry of the photo resized to width x height."""
        fx, fy = width / self.width, height / self.height
        left, top, right, bottom = self.box
        return Geometry(width, height, (left * fx, top * fy, right * fx, bottom * fy))


def compute_geometry(size: tuple[int, int], preprocessing: Preprocessing) -> Geometry:
    """The geometry of a photo of `size` (width, height) under a bundle's preprocessing."""
    width, height = size
    if not preprocessing.resize_size:
        return Geometry(width, height, RESIZE_RULES[preprocessing.resize](width, height, preprocessing))
    left, top, right, bottom = place_resized(size, preprocessing)
    fx, fy = width / (right - left), height / (bottom - top)
    box = (-left * fx, -top * fy, (preprocessing.width - left) * fx, (preprocessing.height - top) * fy)
    return Geometry(width, height, box)


def place_resized(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int, int, int]:
    """Where a photo of `size` (width, height) lies, resized as a whole for `resize_size`: (left, top, right, bottom).

    In whole pixels of the network's input, beyond which it may extend. Rounds as torchvision's `Resize` and
    `CenterCrop` do, and timm's `ResizeKeepRatio` and `CenterCropOrPad`.
    """
    width, height = _resized_size(size, preprocessing)
    left, top = _centre(width, preprocessing.width), _centre(height, preprocessing.height)
    return left, top, left + width, top + height


def project_to_photo(values: Map, geometry: Geometry) -> Map:
    """Resize a map [h,w] over the network's input bilinearly to the photo: [height,width], NaN where not seen."""
    left, top, right, bottom = geometry.seen
    seen = project_to_seen(values, geometry)
    if seen.shape == (geometry.height, geometry.width):
        return seen
    photo = np.full((geometry.height, geometry.width), np.nan, np.float32)
    photo[top:bottom, left:right] = seen
    return photo


def project_to_seen(values: Map, geometry: Geometry) -> Map:
    """Resize a map [h,w] over the network's input bilinearly to the size of `geometry.seen`."""
    left, top, right, bottom = geometry.seen
    h, w = values.shape
    fx, fy = w / (geometry.box[2] - geometry.box[0]), h / (geometry.box[3] - geometry.box[1])
    source = (
        max(0.0, (left - geometry.box[0]) * fx),
        max(0.0, (top - geometry.box[1]) * fy),
        min(float(w), (right - geometry.box[0]) * fx),
        min(float(h), (bottom - geometry.box[1]) * fy),
    )
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=source))


def _squeeze(width: int, height: int, preprocessing: Preprocessing) -> Box:
    return 0.0, 0.0, float(width), float(height)


def _crop(width: int, height: int, preprocessing: Preprocessing) -> Box:
    """Scale the short side to `short_side` and crop the centre, rounding as torchvision's Resize and CenterCrop do."""
    short = preprocessing.short_side or min(preprocessing.width, preprocessing.height)
    scaled_width = short if width <= height else int(short * width / height)
    scaled_height = short if height <= width else int(short * height / width)
    left, top = round((scaled_width - preprocessing.width) / 2), round((scaled_height - preprocessing.height) / 2)
    fx, fy = width / scaled_width, height / scaled_height
    right, bottom = (left + preprocessing.width) * fx, (top + preprocessing.height) * fy
    return left * fx, top * fy, min(right, width), min(bottom, height)


def _pad(width: int, height: int, preprocessing: Preprocessing) -> Box:
    scale = max(width / preprocessing.width, height / preprocessing.height)
    dx, dy = (preprocessing.width * scale - width) / 2, (preprocessing.height * scale - height) / 2
    return -dx, -dy, width + dx, height + dy


def _resized_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """The (width, height) that a photo of `size` is resized to for `resize_size`.

    torchvision's `Resize`, which timm uses to cover squares, rounds down; timm's `ResizeKeepRatio` rounds to nearest.
    """
    assert preprocessing.resize_size
    target = preprocessing.resize_size[::-1]
    if preprocessing.resize == "squeeze":
        return target
    ratios = [side / wanted for side, wanted in zip(size, target, strict=True)]
    if preprocessing.resize == "crop" and target[0] == target[1]:
        width, height = (int(target[0] * side / min(size)) for side in size)
    else:
        ratio = max(ratios) if preprocessing.resize == "pad" else min(ratios)
        width, height = (max(1, round(side / ratio)) for side in size)
    return width, height


def _centre(length: int, frame: int) -> int:
    """Where `length` pixels begin in a frame that they are centred in, rounded as torchvision's `center_crop` does."""
    return (frame - length) // 2 if length <= frame else -round((length - frame) / 2)


# `Preprocessing.resize` → the function that computes the box of the photo that the network's input covers.
RESIZE_RULES = {"squeeze": _squeeze, "crop": _crop, "pad": _pad}


def _covered_pixels(low: float, high: float, limit: int) -> tuple[int, int]:
    """The range [first, stop) of the pixels 0..limit-1 whose centres lie in [low, high]; at least one pixel."""
    first = min(max(0, math.ceil(low - 0.5)), limit - 1)
    return first, max(first + 1, min(limit, math.floor(high + 0.5)))
