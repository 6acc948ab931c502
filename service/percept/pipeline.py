"""The pipeline: predict, features, explain and infer, from encoded images to results in terms of the photo.

Each is one job on a worker thread: decode, resize, run the trunk, compute the result, draw and encode it. Only methods
that need many passes continue in further jobs. The event loop only waits. The pipeline knows no HTTP.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

from percept.bundle.manifest import Layer
from percept.errors import DeadlineExceeded, PerceptError
from percept.explain.explanation import Explanation
from percept.explain.features import FeatureMap, FeatureOutput, build_feature_map
from percept.explain.methods.runner import Steps
from percept.explain.presentation import ENCODED_FORMATS, CamOutput, encode_maps
from percept.explain.question import Question, ResolvedQuestion, needs_probe, resolve
from percept.explain.receptive_field import require_image_layer
from percept.explain.regions import hot_regions
from percept.explain.runner import advance, drive, explain
from percept.imaging.geometry import Map, Pixels
from percept.runtime.image_cache import ImageCache
from percept.runtime.model import ONLY_LOGITS, Model
from percept.runtime.network import TrunkInput
from percept.runtime.session import Arrays
from percept.runtime.worker_pool import WorkerPool
from percept.settings import Settings
from percept.tasks.input_image import InputImage, from_pixels, prepare
from percept.tasks.mask_picture import MaskPicture, encode_mask
from percept.tasks.task import not_finite
from percept.telemetry.context import stage

TOP_K = 5  # classes of a classifier's prediction, by default

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class PostedImage:
    """An image that a client sent for a model: encoded bytes, or pixels uint8 [H,W,C] of the network's input size.

    A `cached` image is in the image cache already; `outputs` are the trunk outputs that the cache holds for it.
    """

    model: Model
    data: bytes | Pixels
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    cached: bool = False
    outputs: Arrays = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PreparedInput(TrunkInput):
    """The trunk's input, with the image that it was prepared from."""

    image: InputImage


@dataclass(frozen=True, eq=False)
class Predicted:
    """A prediction: `answer` is the task's part of the JSON, `encoded` the picture of a mask if it was requested."""

    image: InputImage
    answer: BaseModel
    encoded: bytes | None = None


@dataclass(frozen=True, eq=False)
class Explained:
    """The maps of one image and the `logits` [K] or [K,h,w] that they explain.

    `encoded` is the picture or array of a response that consists of one.
    """

    image: InputImage
    logits: Map
    maps: list[Explanation]
    encoded: bytes | None = None


@dataclass(frozen=True, eq=False)
class Inferred:
    """Trunk outputs of one image, without the batch dimension, and its maps."""

    outputs: Arrays
    maps: list[Explanation]

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays."""
        return sum(array.nbytes for array in (*self.outputs.values(), *(one.raw for one in self.maps)))


class Pipeline:
    """Runs images through models. `workers` decode, draw and, on a CPU, run the networks."""

    def __init__(self, settings: Settings, workers: WorkerPool) -> None:
        self._settings = settings
        self.workers = workers
        self.cache = ImageCache(settings.store_bytes, settings.store_s)

    @asynccontextmanager
    async def admit(self, model: Model) -> AsyncIterator[asyncio.Timeout]:
        """Hold a place in the model's queue while the body runs, and cancel it at the deadline.

        Raises `QueueFull` or `DeadlineExceeded`.
        """
        try:
            with model.queue.admit():
                async with asyncio.timeout(self._settings.deadline_s) as deadline:
                    yield deadline
        except TimeoutError as error:
            raise self._deadline_exceeded() from error

    async def resolve(self, model: Model, question: Question) -> ResolvedQuestion:
        """Check a question before the image is read; raises as `percept.explain.question.resolve`."""
        return (
            await self.workers.run(resolve, model, question)
            if needs_probe(model, question)
            else resolve(model, question)
        )

    def cached_image(self, id: str) -> PostedImage:
        """The image that an earlier request sent; raises `UnknownImage`."""
        found = self.cache.get(id)
        return PostedImage(found.model, found.data, id, cached=True, outputs=found.outputs)

    async def predict(self, image: PostedImage, top_k: int = TOP_K, picture: MaskPicture | None = None) -> Predicted:
        """The prediction for one image, and the picture of its mask if requested."""
        return await self._run(image, ONLY_LOGITS, partial(_predict, top_k, picture))

    async def predict_each(
        self, images: Sequence[PostedImage], top_k: int, deadline: asyncio.Timeout
    ) -> list[Predicted | PerceptError]:
        """The predictions for several images, or their errors; they run concurrently and share one deadline."""
        end = deadline.when()
        deadline.reschedule(None)  # a late image must not cancel the request, whose other images have results
        return await _gather([self._predict_until(end, image, top_k) for image in images])

    def check_features(self, model: Model, layer: Layer, output: FeatureOutput) -> None:
        """Raise `GradientsUnavailable` or `MethodUnavailable` if the output needs gradients that the model lacks."""
        if output.view == "effective":
            require_image_layer(model, layer)

    async def features(self, image: PostedImage, layer: Layer, output: FeatureOutput) -> FeatureMap:
        """The feature map of a layer, with what the output shows of it.

        Raises `BadParameter` if the network does not see the point of the output, or `NetworkNotFinite`.
        """
        wanted = frozenset({layer.name})
        if output.view == "effective":
            wanted |= {"logits", require_image_layer(image.model, layer).name}
        return await self._run(
            image, wanted, lambda prepared, outputs: build_feature_map(prepared.image, layer, output, outputs)
        )

    async def explain(self, image: PostedImage, question: ResolvedQuestion, output: CamOutput) -> Explained:
        """One map for each method, group of layers and class of the question.

        Raises `TargetAbsent` or `BadParameter` if the image has nothing of the class or the place, or
        `NetworkNotFinite`.
        """
        progress = await self._run(
            image,
            question.outputs,
            lambda prepared, outputs: advance(_explain_and_encode(question, output, prepared.image, outputs)),
        )
        if progress.value is not None:  # most methods need no further job
            return progress.value
        return await drive(progress, image.model, self.workers.run)

    async def infer(
        self,
        model: Model,
        images: Sequence[bytes | Pixels],
        outputs: frozenset[str],
        question: ResolvedQuestion | None = None,
    ) -> list[Inferred]:
        """The trunk outputs of several images, and their maps if there is a question. No image is cached.

        If one image fails, all do: raises as `explain`, with the number of the image.
        """
        wanted = outputs | question.outputs if question else outputs
        if len(images) == 1:
            return [await self._infer_image(PostedImage(model, images[0]), wanted, question)]
        numbered = enumerate(images)
        return await _gather(
            [self._infer_numbered(k, PostedImage(model, one), wanted, question) for k, one in numbered]
        )

    async def _predict_until(self, end: float | None, image: PostedImage, top_k: int) -> Predicted | PerceptError:
        """The prediction for one image or its error; it is late at `end` by the clock of the event loop."""
        try:
            async with asyncio.timeout_at(end):
                return await self.predict(image, top_k)
        except TimeoutError:
            return self._deadline_exceeded()
        except PerceptError as error:
            return error

    async def _infer_numbered(
        self, number: int, image: PostedImage, wanted: frozenset[str], question: ResolvedQuestion | None
    ) -> Inferred:
        """As `_infer_image`; an error names the number of the image."""
        try:
            return await self._infer_image(image, wanted, question)
        except PerceptError as error:
            raise type(error)(f"image {number}: {error}") from error

    async def _infer_image(
        self, image: PostedImage, wanted: frozenset[str], question: ResolvedQuestion | None
    ) -> Inferred:
        progress = await image.model.run(
            partial(self._prepare, image, wanted),
            lambda prepared, found: advance(_infer(question, prepared.image, found)),
        )
        return await drive(progress, image.model, self.workers.run)

    async def _run(self, image: PostedImage, wanted: frozenset[str], finish: Callable[[PreparedInput, Arrays], T]) -> T:
        """Run the trunk on an image and cache the image; returns what `finish` makes from the trunk outputs."""
        if image.cached:
            return await self._run_cached(image, wanted, finish)
        result = await image.model.run(partial(self._prepare, image, wanted), finish)
        if isinstance(image.data, bytes):
            self.cache.put(image.id, image.data, image.model)
        return result

    async def _run_cached(
        self, image: PostedImage, wanted: frozenset[str], finish: Callable[[PreparedInput, Arrays], T]
    ) -> T:
        """As `_run` for a cached image: the first time all trunk outputs are cached, later the trunk does not run."""
        if image.outputs:
            return await self.workers.run(lambda: finish(self._prepare(image, wanted), image.outputs))
        outputs, result = await image.model.run(
            partial(self._prepare, image, image.model.all_outputs),
            lambda prepared, outputs: (outputs, finish(prepared, outputs)),
        )
        self.cache.add_outputs(image.id, outputs)
        return result

    def _prepare(self, image: PostedImage, wanted: frozenset[str]) -> PreparedInput:
        if isinstance(image.data, bytes):
            prepared = prepare(image.model, image.data, image.id, self._settings)
        else:
            prepared = from_pixels(image.model, image.data, image.id)
        return PreparedInput(prepared.pixels, wanted, prepared)

    def _deadline_exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the response was not ready after {self._settings.deadline_s:g} s; request less, or later"
        )


async def _gather(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of several coroutines that run concurrently; the first failure cancels the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _predict(top_k: int, picture: MaskPicture | None, prepared: PreparedInput, outputs: Arrays) -> Predicted:
    image, logits = prepared.image, outputs["logits"]
    if not np.isfinite(logits).all():
        raise not_finite(image.model.manifest, "logits")
    with stage("render"):
        answer = image.task.predict(image.model.manifest, logits, image.geometry, top_k)
    return Predicted(image, answer, encode_mask(image, logits, picture) if picture else None)


def _explain_and_encode(
    question: ResolvedQuestion, output: CamOutput, image: InputImage, outputs: Arrays
) -> Steps[Explained]:
    maps = yield from explain(question, image, outputs)
    if output.boxes is not None:
        maps = [replace(one, regions=hot_regions(one.heat, image.geometry, output.boxes)) for one in maps]
    encoded = encode_maps(maps, output) if output.format in ENCODED_FORMATS else None
    return Explained(image, outputs["logits"], maps, encoded)


def _infer(question: ResolvedQuestion | None, image: InputImage, outputs: Arrays) -> Steps[Inferred]:
    maps = (yield from explain(question, image, outputs)) if question else []
    return Inferred(outputs, maps)
