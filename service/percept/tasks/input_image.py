"""A decoded photo as one model sees it: what every line of the service begins with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

from PIL import Image

from percept.errors import BadParameter
from percept.imaging.decode import Geometry, Pixels, decode, decode_for, prepare
from percept.runtime.model import Model
from percept.settings import Settings
from percept.tasks.table import TASKS, Task
from percept.telemetry.context import stage


@dataclass(frozen=True, eq=False)
class View:
    """A photo, the rectangle of it that the network sees, and the pixels that it gets: uint8 [H,W,3].

    `decoded` may be smaller than the photo of the `geometry`; then `full` decodes it again.
    """

    id: str
    model: Model
    decoded: Image.Image
    geometry: Geometry
    pixels: Pixels
    full: Callable[[], Image.Image]

    @property
    def task(self) -> Task:
        """What the model's logits mean."""
        return TASKS[self.model.manifest.task]

    @cached_property
    def photo(self) -> Image.Image:
        """The photo in full, `RGB`."""
        return self.decoded if self.decoded.size == self.geometry.size else self.full()


def see(model: Model, data: bytes, id: str, settings: Settings) -> View:
    """An encoded image as a model sees it; raises as `decode`."""
    limits = settings.max_image_bytes, settings.max_image_pixels
    rule = model.manifest.preprocessing
    with stage("decode"):
        decoded, seen = decode_for(rule, data, *limits)
    with stage("prepare"):
        pixels = prepare(decoded, seen, rule)
    return View(id, model, decoded, seen, pixels, partial(decode, data, *limits))


def framed(model: Model, pixels: Pixels, id: str) -> View:
    """The view of pixels that are as the network takes them, uint8 [H,W,3]: they are the photo, and all of it is seen.

    Raises `BadParameter` where they are not.
    """
    rule = model.manifest.preprocessing
    if pixels.shape != (rule.height, rule.width, 3):
        raise BadParameter(
            f"model {model.manifest.name!r} takes pixels of [N, {rule.height}, {rule.width}, 3], not "
            f"{['N', *pixels.shape]}: resize them, or send encoded images"
        )
    photo = Image.fromarray(pixels)
    whole = Geometry(rule.width, rule.height, (0, 0, rule.width, rule.height))
    return View(id, model, photo, whole, pixels, lambda: photo)
