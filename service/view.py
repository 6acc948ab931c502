"""A decoded photo as one model sees it: what every line of the service begins with."""

from dataclasses import dataclass

from PIL import Image

from service.image import Geometry, Pixels
from service.repository import Model
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
