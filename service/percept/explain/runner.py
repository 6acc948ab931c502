"""The runner: makes the maps that a resolved question asks for, by driving the generators of the methods.

`explain` is itself a generator. It runs on a worker thread, where it computes passes of a layer's tail directly. It
yields wherever it has to give up the thread: a `LogitsRequest` for passes of the whole network, which go through the
model's queue, and `PAUSE` at the end of each time slice, so that slow methods do not delay other requests. `drive`
runs such a generator to its end. A generator that is dropped, because its request was cancelled, does nothing more.

Letters as in `percept.explain.protocol`.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from time import perf_counter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from percept.bundle.manifest import IMAGE, Layer
from percept.errors import BadParameter
from percept.explain.explanation import Explanation
from percept.explain.faithfulness import measure_faithfulness, score_function
from percept.explain.maps import find_peak, fuse, normalize
from percept.explain.methods import METHODS, Method
from percept.explain.protocol import (
    MAX_BATCH,
    LogitsRequest,
    MethodInput,
    MethodRun,
    NetworkRequest,
    PassRequest,
    PassResult,
    TailRequest,
)
from percept.explain.question import ResolvedQuestion
from percept.explain.receptive_field import measure_influence
from percept.imaging.geometry import Box, Map, Pixels
from percept.runtime.model import Model
from percept.runtime.session import Arrays
from percept.tasks.input_image import InputImage
from percept.tasks.task import Region

SLICE_S = 0.05  # of a worker thread before the runner pauses
MAX_PASS_S = 0.1  # a pass of the tail that takes longer makes the next batch smaller
FULL_HEAT_QUANTILE = 0.99  # at the image's own pixels the hottest hundredth counts as the maximum

T = TypeVar("T")


class Pause:
    """Yielded at the end of a time slice; nothing is sent back."""


PAUSE = Pause()

Wait = LogitsRequest | Pause
Steps = Generator[Wait, Map | None, T]
RunOnWorker = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Done(Generic[T]):
    """The value that a generator of steps returned."""

    value: T


def advance(steps: Steps[T], reply: Map | None = None) -> Wait | Done[T]:
    """Run a generator up to its next wait or to its end; blocks."""
    try:
        return steps.send(reply)
    except StopIteration as end:
        return Done(end.value)


async def drive(steps: Steps[T], model: Model, run_on_worker: RunOnWorker, first: Wait | Done[T] | None = None) -> T:
    """Run a generator to its end and return its value. `first` is its first wait if it has been advanced already."""
    step: Wait | Done[T] = await run_on_worker(advance, steps) if first is None else first
    while not isinstance(step, Done):
        reply = await model.logits(step.pixels) if isinstance(step, LogitsRequest) else None
        step = await run_on_worker(advance, steps, reply)
    return step.value


def explain(question: ResolvedQuestion, image: InputImage, outputs: Arrays) -> Steps[list[Explanation]]:
    """The maps by method, then group of layers, then class. `outputs` are the trunk outputs of the image.

    Raises `TargetAbsent` or `BadParameter` if the image has nothing of the class or the place.
    """
    manifest, task, logits = question.model.manifest, image.task, outputs["logits"]
    region = _region(image, question.place, logits.shape[1:])
    targets = question.targets or task.targets(manifest, logits, region)[: question.top]
    seeds = {target: task.seed(manifest, logits, target, region) for target in targets}
    scores = {target: task.score(manifest, logits, target, seeds[target]) for target in targets}
    differences = [_subtract_class(seeds[target], target, question.against) for target in targets]
    clock = SliceClock()
    explanations = []
    for method, group in product(question.methods, question.groups):
        by_layer = []
        for layer in group:
            runner = MethodRunner(image, outputs, layer, differences, clock)
            by_layer.append((yield from runner.run(METHODS[method])))
        for target, maps in zip(targets, zip(*by_layer, strict=True), strict=True):
            raw, heat = _normalize_and_fuse(maps, group)
            explanations.append(Explanation(image, group, method, target, question.against, scores[target], raw, heat))
    if question.effective:
        explanations = yield from _add_influence(explanations, outputs, clock)
    if question.faithfulness:
        explanations = yield from _add_faithfulness(explanations, logits, seeds)
    return explanations


class SliceClock:
    """How long the runner has held its worker thread."""

    def __init__(self) -> None:
        self._start = perf_counter()

    def pause_if_due(self) -> Steps[None]:
        """Yield `PAUSE` if the time slice is over."""
        if perf_counter() - self._start > SLICE_S:
            yield PAUSE
            self._start = perf_counter()


class MethodRunner:
    """Runs methods for several seeds at one layer of one image, in batches that mix the seeds."""

    def __init__(
        self, image: InputImage, outputs: Arrays, layer: Layer, seeds: Sequence[Map], clock: SliceClock
    ) -> None:
        self._image, self._outputs, self._layer, self._seeds, self._clock = image, outputs, layer, seeds, clock
        self._network = image.model.network
        self._batch = min(image.model.queue.concurrency, MAX_BATCH)

    def run(self, method: Method) -> Steps[list[Map]]:
        """The map before ReLU for every seed, float32 [h,w]."""
        linear = self._network.is_linear(self._layer)
        runs = [method.run(self._method_input(seed, linear)) for seed in self._seeds]
        maps: dict[int, Map] = {}
        requests = _resume(runs, dict.fromkeys(range(len(runs))), maps)
        while requests:
            results = yield from self._execute(requests)
            requests = _resume(runs, results, maps)
        return [maps[i] for i in range(len(runs))]

    def _method_input(self, seed: Map, linear: bool) -> MethodInput:
        return MethodInput(
            A=self._outputs[self._layer.name],
            pixels=self._image.pixels,
            y=float((seed * self._outputs["logits"]).sum()),
            rng=np.random.default_rng(0),
            blank=self._image.model.manifest.preprocessing.blank,
            linear=linear,
            terms=max(int((seed > 0).sum()), 1),
        )

    def _execute(self, requests: Mapping[int, PassRequest]) -> Steps[dict[int, PassResult]]:
        """The results of one request for each of some seeds."""
        results: dict[int, PassResult] = {}
        for gradients in (True, False):
            tail = {
                i: request.activations
                for i, request in requests.items()
                if isinstance(request, TailRequest) and request.gradients == gradients
            }
            results |= yield from self._run_tail(tail, gradients)
        pixels: Pixels | None = None
        logits: Any = None
        for i, request in requests.items():
            if isinstance(request, NetworkRequest):
                if pixels is None or not np.array_equal(pixels, request.pixels):  # most are the same for every seed
                    pixels = request.pixels
                    logits = yield LogitsRequest(pixels)
                results[i] = PassResult(_weighted_sums(logits, self._seeds[i][None]))
        return results

    def _run_tail(self, activations: Mapping[int, Map], gradients: bool) -> Steps[dict[int, PassResult]]:
        """Run the tail on the activations [n,C,h,w] of several seeds, in batches that mix them.

        A batch doubles while its passes are short and is halved when they are long, whatever the layer.
        """
        owners = [i for i, A in activations.items() for _ in A]
        rows = [one for A in activations.values() for one in A]
        passes: list[TailPass] = []
        start = 0
        while start < len(rows):
            batch = slice(start, start + self._batch)
            passes.append(self._run_tail_once(rows[batch], owners[batch], gradients))
            start = batch.stop
            fast = passes[-1].seconds < MAX_PASS_S
            self._batch = min(2 * self._batch, MAX_BATCH) if fast else max(self._batch // 2, 1)
            yield from self._clock.pause_if_due()
        return _split_by_owner(owners, passes)

    def _run_tail_once(self, rows: Sequence[Map], owners: Sequence[int], gradients: bool) -> "TailPass":
        start = perf_counter()
        seeds = np.stack([self._seeds[i] for i in owners])
        names = ["logits", "gradients"] if gradients else ["logits"]
        found = self._network.run_tail(self._layer, self._outputs, np.stack(rows), seeds, names)
        return TailPass(_weighted_sums(found["logits"], seeds), found.get("gradients"), perf_counter() - start)


class TailPass(NamedTuple):
    """What one pass of a tail gave: y [n], g [n,C,h,w] if requested, and its duration."""

    y: Map
    g: Map | None
    seconds: float


def _resume(
    runs: Sequence[MethodRun], results: Mapping[int, PassResult | None], maps: dict[int, Map]
) -> dict[int, PassRequest]:
    """Send each method its result; returns the next requests, and puts the maps of finished methods into `maps`."""
    requests: dict[int, PassRequest] = {}
    for i, result in results.items():
        try:
            requests[i] = runs[i].send(result)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as end:
            maps[i] = end.value
    return requests


def _split_by_owner(owners: Sequence[int], passes: Sequence[TailPass]) -> dict[int, PassResult]:
    """The results of several passes, collected for each seed."""
    y = np.array([one for found in passes for one in found.y], np.float32)
    g = [one for found in passes if found.g is not None for one in found.g]
    rows = {i: [n for n, owner in enumerate(owners) if owner == i] for i in dict.fromkeys(owners)}
    return {i: PassResult(y[own], np.stack([g[n] for n in own]) if g else None) for i, own in rows.items()}


def _weighted_sums(logits: Map, seeds: Map) -> Map:
    """y = sum(seed * logits) of every row, float32 [n]."""
    return np.asarray((logits * seeds).reshape(len(logits), -1).sum(1), np.float32)


def _subtract_class(seed: Map, target: int, against: int | None) -> Map:
    """The seed of a class minus the same seed of another class."""
    if against is None:
        return seed
    difference = seed.copy()
    difference[against] -= seed[target]
    return difference


def _normalize_and_fuse(maps: Sequence[Map], group: Sequence[Layer]) -> tuple[Map, Map]:
    """The raw map and the heat of one layer, or of several fused layers."""
    heats = [
        normalize(one, FULL_HEAT_QUANTILE if layer.name == IMAGE else 1) for one, layer in zip(maps, group, strict=True)
    ]
    if len(maps) == 1:
        return maps[0], heats[0]
    fused = fuse(heats)
    return fused, normalize(fused)


def _add_influence(found: Sequence[Explanation], outputs: Arrays, clock: SliceClock) -> Steps[list[Explanation]]:
    """The same maps with the influence of every pixel on their hottest cells."""
    explanations = []
    for one in found:
        cell = find_peak(one.heat)
        map_ = None if cell is None else measure_influence(one.image, outputs, one.layers[0], cell)
        explanations.append(replace(one, influence=map_))
        yield from clock.pause_if_due()
    return explanations


def _add_faithfulness(
    found: Sequence[Explanation], logits: Map, seeds: Mapping[int, Map]
) -> Generator[LogitsRequest, Any, list[Explanation]]:
    """The same maps with their faithfulness."""
    explanations = []
    for one in found:
        manifest = one.image.model.manifest
        score = score_function(manifest, seeds[one.target], one.target, one.against)
        blank = manifest.preprocessing.blank
        faithfulness = yield from measure_faithfulness(one.image.pixels, logits, one.heat, score, blank)
        explanations.append(replace(one, faithfulness=faithfulness))
    return explanations


def _region(image: InputImage, place: Box | None, shape: tuple[int, ...]) -> Region | None:
    """The cells of the logits whose centres lie in a rectangle of the photo; at least the one under its centre."""
    if place is None:
        return None
    h, w = shape
    left, top, right, bottom = place
    (r0, c0), (r1, c1) = (image.geometry.to_map(x, y, (h, w)) for x, y in ((left, top), (right, bottom)))
    row, column = (r0 + r1) / 2, (c0 + c1) / 2
    if not (0 <= row < h and 0 <= column < w):
        raise BadParameter(f"the network did not see the photo at {(left + right) / 2:g}, {(top + bottom) / 2:g}")
    rows, columns = np.arange(h) + 0.5, np.arange(w) + 0.5
    region: Region = ((rows >= r0) & (rows <= r1))[:, None] & ((columns >= c0) & (columns <= c1))
    region[int(row), int(column)] = True
    return region
