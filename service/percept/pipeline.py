"""The three straight lines of the service: predict, features, explain. From encoded bytes to arrays in photo terms.

Decoding and drawing run on a bounded pool of threads, networks behind their own queues; the event loop only waits.
It knows no HTTP: what leaves are objects that `routes/` turns into JSON or pictures.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from pydantic import BaseModel

from percept.bundle.manifest import Layer
from percept.errors import DeadlineExceeded, PerceptError
from percept.explain.influence import image_layer, influence
from percept.explain.question import Explainer, Explanation, Question, find_layer
from percept.explain.receptive_field import field_under
from percept.imaging.decode import Map, Pixels
from percept.runtime.image_cache import Kept, Store
from percept.runtime.model import Model
from percept.runtime.network import Look
from percept.runtime.session import Arrays
from percept.runtime.worker_pool import Crew
from percept.settings import Settings
from percept.tasks.input_image import View, framed, see
from percept.telemetry.context import stage

POOLS: dict[str, Callable[[Map], Map]] = {
    "avg": lambda A: A.mean((1, 2)),
    "max": lambda A: A.max((1, 2)),
}

Place = tuple[float, float]  # a point (x, y) of the photo
Asked = Callable[[Model], Question]  # a question in the words of a model
TOP_K = 5  # classes of a classifier's prediction, where nothing else is said

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Predicted:
    """A prediction: `answer` is the task's part of the JSON, `logits` float32 [K] or [K,h,w]."""

    view: View
    logits: Map
    answer: BaseModel


@dataclass(frozen=True, eq=False)
class Explained:
    """Where the network looks in one image: its maps, and the `logits` that they are about, as in `Predicted`."""

    view: View
    logits: Map
    maps: list[Explanation]


@dataclass(frozen=True, eq=False)
class Features:
    """The feature map of one layer, float32 [C,h,w]; `influence` [H,W] of the pixels on a cell, where one was meant."""

    view: View
    layer: Layer
    activations: Map
    influence: Map | None = None


@dataclass(frozen=True, eq=False)
class Inferred:
    """Outputs of the trunk for one image, without the batch dimension, and the maps that were asked for."""

    row: Arrays
    maps: list[Explanation]

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(array.nbytes for array in (*self.row.values(), *(one.raw for one in self.maps)))


@dataclass(frozen=True, eq=False)
class Sight(Look):
    """A view on its way through the trunk, and who will explain it."""

    view: View
    explainer: Explainer | None = None


def unguessable() -> str:
    """A new id of an image."""
    return secrets.token_urlsafe(12)


async def _numbered(number: int, work: Awaitable[T]) -> T:
    """The result of some work for one image of several; a failure says for which."""
    try:
        return await work
    except PerceptError as error:
        raise type(error)(f"image {number}: {error}") from error


@stage("render")
def predicted(view: View, logits: Map, top_k: int) -> Predicted:
    """What logits say of the photo that they come from."""
    return Predicted(view, logits, view.task.answer(view.model.manifest, logits, view.geometry, top_k))


class Pipeline:
    """Runs photos through models. `crew` decodes and draws, and on a CPU runs the networks too."""

    def __init__(self, settings: Settings, crew: Crew) -> None:
        self._settings = settings
        self._crew = crew
        self.store = Store(settings.store_bytes, settings.store_s)

    async def predict(self, model: Model, data: bytes, top_k: int) -> Predicted:
        """The task's answer for one encoded image."""
        async with self._admitted(model):
            view, row = await self._look(model, data, frozenset({"logits"}))
            if not view.task.cells:  # a classifier's answer is made sooner than a thread is asked
                return predicted(view, row["logits"], top_k)
            return await self.work(predicted, view, row["logits"], top_k)

    async def features(self, model: Model, data: bytes, layer_name: str, place: Place | None = None) -> Features:
        """The activations of a layer for one encoded image, and the influence on the cell under a `place` (x, y) of it.

        Raises `UnknownLayer`; with a place `GradientsUnavailable`, `MethodUnavailable` or `BadParameter` too.
        """
        layer = find_layer(model, layer_name)
        outputs = frozenset({layer.name})
        if place is not None:
            outputs |= {"logits", image_layer(model, layer).name}
        async with self._admitted(model):
            view, row = await self._look(model, data, outputs)
            return await self._seen(view, layer, row, place)

    async def explain(self, model: Model, data: bytes, question: Asked) -> Explained:
        """Where the network looks: one map for each method, group of layers and class that the question names.

        The question is asked of the model on a thread: it may have to try its network. Raises `UnknownLayer`,
        `UnknownClass`, `TargetAbsent`, `BadParameter`, `GradientsUnavailable` or `MethodUnavailable`.
        """

        def understood() -> Sight:
            explainer = Explainer(model, question(model))
            return self._see(model, data, explainer.outputs, unguessable(), explainer)

        async with self._admitted(model):
            sight, row = await model.run(understood)
            self.store.keep(sight.view.id, data, model)
            return await self._explained(sight, row)

    async def infer(
        self, model: Model, images: Sequence[bytes | Pixels], outputs: frozenset[str], question: Asked | None = None
    ) -> list[Inferred]:
        """What the trunk gives for several images, encoded or as the network takes them, and a map of each if asked.

        All or nothing: raises as `explain`, with the number of the image. None of them is kept.
        """
        async with self._admitted(model):
            tasks = [asyncio.ensure_future(self._infer(model, image, outputs, question)) for image in images]
            try:
                return await asyncio.gather(*map(_numbered, range(len(tasks)), tasks) if len(tasks) > 1 else tasks)
            finally:
                for task in tasks:
                    task.cancel()

    async def explain_again(self, id: str, question: Asked) -> Explained:
        """As `explain`, of an image that is kept: from the second time on it costs no pass of the trunk.

        Raises `UnknownImage` too.
        """
        kept = self.store.find(id)

        def understood() -> Sight:
            return self._see(kept.model, kept.data, kept.model.known, id, Explainer(kept.model, question(kept.model)))

        async with self._admitted(kept.model):
            return await self._explained(*await self._remembered(kept, id, understood))

    async def features_again(self, id: str, layer_name: str, place: Place | None = None) -> Features:
        """As `features`, of an image that is kept; raises `UnknownImage` too."""
        kept = self.store.find(id)
        layer = find_layer(kept.model, layer_name)
        async with self._admitted(kept.model):
            sight, row = await self._remembered(
                kept, id, partial(self._see, kept.model, kept.data, kept.model.known, id)
            )
            return await self._seen(sight.view, layer, row, place)

    async def work(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking function on the crew."""
        return await self._crew.do(act, *args, **kwargs)

    @asynccontextmanager
    async def _admitted(self, model: Model) -> AsyncIterator[None]:
        """A place in the queue of a model, before anything is decoded; give up what takes longer than is promised."""
        try:
            with model.queue.room():
                async with asyncio.timeout(self._settings.deadline_s):
                    yield
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the answer was not ready after {self._settings.deadline_s:g} s; ask for less, or later"
            ) from error

    async def _infer(
        self, model: Model, image: bytes | Pixels, outputs: frozenset[str], question: Asked | None
    ) -> Inferred:
        def understood() -> Sight:
            explainer = Explainer(model, question(model)) if question else None
            wanted = outputs | explainer.outputs if explainer else outputs
            return self._see(model, image, wanted, unguessable(), explainer)

        sight, row = await model.run(understood)
        return Inferred(row, (await self._explained(sight, row)).maps if question else [])

    async def _look(self, model: Model, data: bytes, outputs: frozenset[str]) -> tuple[View, Arrays]:
        """A new image seen, what the trunk gives for it, and the image kept under its id."""
        sight, row = await model.run(partial(self._see, model, data, outputs, unguessable()))
        self.store.keep(sight.view.id, data, model)
        return sight.view, row

    def _see(
        self,
        model: Model,
        image: bytes | Pixels,
        outputs: frozenset[str],
        id: str,
        explainer: Explainer | None = None,
    ) -> Sight:
        view = see(model, image, id, self._settings) if isinstance(image, bytes) else framed(model, image, id)
        return Sight(view.pixels, outputs, view, explainer)

    async def _remembered(self, kept: Kept, id: str, make: Callable[[], Sight]) -> tuple[Sight, Arrays]:
        """An image that is kept, and all that the trunk gives for it: computed when it is first looked at again."""
        if kept.row:
            return await self.work(make), kept.row
        sight, row = await kept.model.run(make)
        self.store.enrich(id, row)
        return sight, row

    async def _explained(self, sight: Sight, row: Arrays) -> Explained:
        assert sight.explainer is not None
        return Explained(sight.view, row["logits"], await sight.explainer.answer(sight.view, row, self.work))

    async def _seen(self, view: View, layer: Layer, row: Arrays, place: Place | None) -> Features:
        A = row[layer.name]
        if place is None:
            return Features(view, layer, A)
        cell = field_under(view, layer, *place).cell
        return Features(view, layer, A, await self.work(influence, view, row, layer, cell))
