"""BentoML: a PIL image as a multipart field, with the given number of workers.

From BentoML's documentation: "Create online API Services", "Define input and output types", "Parallelize requests
handling".
"""

import os

import bentoml
from model import Model
from PIL.Image import Image


@bentoml.service(workers=int(os.environ["BENCH_WORKERS"]), traffic={"timeout": 60})
class Classifier:
    """A model in each worker."""

    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api
    def predict(self, image: Image) -> dict:
        """The classes of a posted photo."""
        return self.model.answer(image)
