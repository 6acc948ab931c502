"""TODO: what comes in, what leaves."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from percept.bundle.manifest import Preprocessing

# The class of what the network never saw, in masks.
UNSEEN = 255


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


def compute_geometry(size: tuple[int, int], rule: Preprocessing) -> Geometry:
    """The geometry of a photo of `size` (width, height) under the rule of a bundle."""
    width, height = size
    return Geometry(width, height, BOXES[rule.resize](width, height, rule))


def project_to_photo(values: Map, view: Geometry) -> Map:
    """A map [h,w] over the network's input, bilinearly laid over the photo: [height,width], NaN where not seen."""
    left, top, right, bottom = view.seen
    seen = project_to_seen(values, view)
    if seen.shape == (view.height, view.width):
        return seen
    photo = np.full((view.height, view.width), np.nan, np.float32)
    photo[top:bottom, left:right] = seen
    return photo


def project_to_seen(values: Map, view: Geometry) -> Map:
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
