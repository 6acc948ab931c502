"""A posted image prepared for one model: the photo, the pixels that the network gets, and their geometry."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

from PIL import Image

from percept.errors import BadParameter
from percept.imaging import preprocess
from percept.imaging.colour import to_rgb
from percept.imaging.decode import decode, decode_reduced
from percept.imaging.geometry import Geometry, Pixels
from percept.runtime.model import Model
from percept.settings import Settings
from percept.tasks.table import TASKS
from percept.tasks.task import Task
from percept.telemetry.context import stage


@dataclass(frozen=True, eq=False)
class InputImage:
    """A photo, the part of it that the network sees (`geometry`), and the network's input `pixels` uint8 [H,W,C].

    `decoded` may be smaller than the photo that the `geometry` describes; `decode_full` then decodes it again. It has
    an alpha if the network takes one.
    """

    id: str
    model: Model
    task: Task
    decoded: Image.Image
    geometry: Geometry
    pixels: Pixels
    decode_full: Callable[[], Image.Image]

    @cached_property
    def photo(self) -> Image.Image:
        """The photo at its full size, mode `RGB`, upright."""
        size = (self.geometry.width, self.geometry.height)
        photo = self.decoded if self.decoded.size == size else self.decode_full()
        return photo if photo.mode == "RGB" else to_rgb(photo)


def prepare(model: Model, data: bytes, id: str, settings: Settings) -> InputImage:
    """Decode an encoded image and resize it to the model's input; raises as `percept.imaging.decode.decode`."""
    limits = settings.max_image_bytes, settings.max_image_pixels
    preprocessing, task = model.manifest.preprocessing, TASKS[model.manifest.task]
    with stage("decode"):
        decoded, geometry = decode_reduced(preprocessing, data, *limits)
    with stage("prepare"):
        pixels = preprocess.prepare(decoded, geometry, preprocessing)
    return InputImage(id, model, task, decoded, geometry, pixels, partial(decode, data, *limits))


def from_pixels(model: Model, pixels: Pixels, id: str) -> InputImage:
    """Take pixels uint8 [H,W,C] that already have the size of the model's input: they are the photo, all of it seen.

    Raises `BadParameter` if they have another shape.
    """
    preprocessing = model.manifest.preprocessing
    if pixels.shape != preprocessing.shape:
        height, width, channels = preprocessing.shape
        raise BadParameter(
            f"model {model.manifest.name!r} takes pixels of [N, {height}, {width}, {channels}], not "
            f"{['N', *pixels.shape]}: resize them, or send encoded images"
        )
    photo = to_rgb(preprocess.to_picture(pixels))
    whole = Geometry(preprocessing.width, preprocessing.height, (0, 0, preprocessing.width, preprocessing.height))
    return InputImage(id, model, TASKS[model.manifest.task], photo, whole, pixels, lambda: photo)
