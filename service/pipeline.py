"""The three straight lines of the service: predict, features, explain. From encoded bytes to arrays in photo terms.

Decoding and drawing run on a bounded pool of threads, networks behind their own queues; the event loop only waits.
It knows no HTTP: what leaves are objects that `routes/` turns into JSON or pictures.
"""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from PIL import Image
from pydantic import BaseModel

from service.cam import METHODS, unit
from service.errors import UnknownLayer
from service.image import Geometry, Map, Pixels, decode, geometry, prepare
from service.manifest import Layer
from service.network import Look
from service.repository import Model
from service.session import Arrays
from service.settings import Settings
from service.tasks import TASKS, Task, class_index

POOLS: dict[str, Callable[[Map], Map]] = {
    "avg": lambda A: A.mean((1, 2)),
    "max": lambda A: A.max((1, 2)),
}

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class View:
    """A decoded photo as one model sees it."""

    id: str
    model: Model
    photo: Image.Image
    geometry: Geometry
    pixels: Pixels

    @property
    def task(self) -> Task:
        """What the model's logits mean."""
        return TASKS[self.model.manifest.task]


@dataclass(frozen=True, eq=False)
class Predicted:
    """A prediction: `answer` is the task's part of the JSON, `logits` float32 [K] or [K,h,w]."""

    view: View
    logits: Map
    answer: BaseModel


@dataclass(frozen=True, eq=False)
class Features:
    """The feature map of one layer, float32 [C,h,w]."""

    view: View
    layer: Layer
    activations: Map


@dataclass(frozen=True, eq=False)
class Explanation:
    """A class-activation map: `raw` before ReLU and `heat` in [0,1], both float32 [h,w] in cells of the layer."""

    view: View
    layer: Layer
    method: str
    target: int
    score: float
    raw: Map
    heat: Map


class Pipeline:
    """Runs photos through models."""

    def __init__(self, settings: Settings, workers: int) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="image")

    async def predict(self, model: Model, data: bytes, top_k: int) -> Predicted:
        """The task's answer for one encoded image."""
        view = await self._look(model, data)
        row = await self._forward(view, frozenset({"logits"}))
        logits = row["logits"]
        answer = await self.work(view.task.answer, model.manifest, logits, view.geometry, top_k)
        return Predicted(view, logits, answer)

    async def features(self, model: Model, data: bytes, layer_name: str) -> Features:
        """The activations of a layer for one encoded image; raises `UnknownLayer`."""
        layer = find_layer(model, layer_name)
        view = await self._look(model, data)
        row = await self._forward(view, frozenset({layer.name}))
        return Features(view, layer, row[layer.name])

    async def explain(
        self, model: Model, data: bytes, method: str, target: str | None, layer_name: str | None
    ) -> Explanation:
        """Where the network looks for a class by a row of `METHODS`: by default the top class at the CAM layer.

        Raises `UnknownLayer`, `UnknownClass`, `TargetAbsent` or `GradientsUnavailable`.
        """
        manifest = model.manifest
        layer = find_layer(model, layer_name or manifest.cam_layer)
        index = None if target is None else class_index(manifest, target)
        view = await self._look(model, data)
        row = await self._forward(view, model.network.cut(layer))
        return await self.work(_explain, view, row, layer, method, index)

    async def work(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking function on the pool."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: act(*args, **kwargs))

    def close(self) -> None:
        """Stop the threads once they are done with what they hold."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _look(self, model: Model, data: bytes) -> View:
        return await self.work(self._see, model, data)

    def _see(self, model: Model, data: bytes) -> View:
        settings, rule = self._settings, model.manifest.preprocessing
        photo = decode(data, settings.max_image_bytes, settings.max_image_pixels)
        seen = geometry(photo.size, rule)
        return View(secrets.token_urlsafe(12), model, photo, seen, prepare(photo, seen, rule))

    async def _forward(self, view: View, outputs: frozenset[str]) -> Arrays:
        return await view.model.queue.submit(Look(view.pixels, outputs))


def find_layer(model: Model, name: str) -> Layer:
    """The layer of that name; raises `UnknownLayer` with what there is."""
    layer = model.manifest.layer(name)
    if layer is None:
        names = ", ".join(layer.name for layer in model.manifest.layers)
        raise UnknownLayer(f"model {model.manifest.name!r} has no layer {name!r}; it has {names}")
    return layer


def _explain(view: View, row: Arrays, layer: Layer, method: str, target: int | None) -> Explanation:
    manifest, task, logits = view.model.manifest, view.task, row["logits"]
    index = task.target(manifest, logits) if target is None else target
    seed = task.seed(manifest, logits, index)
    gradients = view.model.network.gradients(layer, row, seed)
    raw = METHODS[method](row[layer.name], gradients)
    score = task.score(manifest, logits, index)
    return Explanation(view, layer, method, index, score, raw, unit(raw))
