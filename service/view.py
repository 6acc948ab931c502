"""A decoded photo as one model sees it: what every line of the service begins with."""

from dataclasses import dataclass

from PIL import Image

from service.image import Geometry, Pixels, decode, geometry, prepare
from service.repository import Model
from service.settings import Settings
from service.stages import stage
from service.tasks import TASKS, Task


@dataclass(frozen=True, eq=False)
class View:
    """A photo, the rectangle of it that the network sees, and the pixels that it gets: uint8 [H,W,3]."""

    id: str
    model: Model
    photo: Image.Image
    geometry: Geometry
    pixels: Pixels

    @property
    def task(self) -> Task:
        """What the model's logits mean."""
        return TASKS[self.model.manifest.task]


def see(model: Model, data: bytes, id: str, settings: Settings) -> View:
    """An encoded image as a model sees it; raises as `decode`."""
    with stage("decode"):
        photo = decode(data, settings.max_image_bytes, settings.max_image_pixels)
    rule = model.manifest.preprocessing
    seen = geometry(photo.size, rule)
    with stage("prepare"):
        return View(id, model, photo, seen, prepare(photo, seen, rule))
