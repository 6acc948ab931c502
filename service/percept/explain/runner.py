"""The runner: computes the maps of a resolved question for one image.

`explain` is a generator that runs on a worker thread and yields where it needs passes of the whole network or has used
the thread for long enough (see `percept.explain.methods.runner`). `drive` runs it to its end, in one job for each step;
the passes go through the model's queue, among those of other requests. If the request is cancelled, no further step
runs.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Generic, TypeVar

import numpy as np

from percept.bundle.manifest import IMAGE, Layer
from percept.errors import BadParameter
from percept.explain.explanation import Explanation
from percept.explain.faithfulness import measure_faithfulness, score_function
from percept.explain.maps import find_peak, fuse, normalize
from percept.explain.methods.protocol import LogitsRequest
from percept.explain.methods.runner import PAUSE, MethodRunner, Steps, Wait
from percept.explain.methods.table import METHODS
from percept.explain.question import ResolvedQuestion
from percept.explain.receptive_field import measure_influence
from percept.imaging.geometry import Box, Map
from percept.runtime.model import Model
from percept.runtime.session import Arrays
from percept.tasks.input_image import InputImage
from percept.tasks.task import Region, not_finite

FULL_HEAT_QUANTILE = 0.99  # at the image's own pixels the hottest hundredth counts as the maximum

T = TypeVar("T")
RunOnWorker = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Progress(Generic[T]):
    """A generator of steps and its state: the `wait` that it yielded, or the `value` that it returned."""

    steps: Steps[T]
    wait: Wait | None
    value: T | None = None


def advance(steps: Steps[T], reply: Map | None = None) -> Progress[T]:
    """Run a generator up to its next wait or to its end, on this thread."""
    try:
        return Progress(steps, steps.send(reply))
    except StopIteration as end:
        return Progress(steps, None, end.value)


async def drive(progress: Progress[T], model: Model, run_on_worker: RunOnWorker) -> T:
    """Run a generator to its end and return its value."""
    while progress.wait is not None:
        request = progress.wait
        reply = await model.logits(request.pixels) if isinstance(request, LogitsRequest) else None
        if reply is not None and not np.isfinite(reply).all():
            raise not_finite(model.manifest, "logits of changed images")
        progress = await run_on_worker(advance, progress.steps, reply)
    return progress.value  # type: ignore[return-value]  # the generator is at its end


def explain(question: ResolvedQuestion, image: InputImage, outputs: Arrays) -> Steps[list[Explanation]]:
    """The maps by method, then group of layers, then class. `outputs` are the trunk outputs of the image.

    Raises `TargetAbsent` or `BadParameter` if the image has nothing of the class or the place, or `NetworkNotFinite`.
    """
    manifest, task, logits = question.model.manifest, image.task, outputs["logits"]
    if not np.isfinite(logits).all():
        raise not_finite(manifest, "logits")
    region = _region(image, question.place, logits.shape[1:]) if question.place else None
    targets = question.targets or task.targets(manifest, logits, region)[: question.top]
    seeds = [task.seed(manifest, logits, target, region) for target in targets]
    scores = [task.score(manifest, logits, *pair) for pair in zip(targets, seeds, strict=True)]
    against = question.against
    explained = seeds  # the maps are of their gradients
    if against is not None:
        explained = [_subtract_class(against, *pair) for pair in zip(targets, seeds, strict=True)]
    runner = MethodRunner(image, outputs, explained)
    explanations = []
    for method, group in product(question.methods, question.groups):
        by_layer = []
        for layer in group:
            by_layer.append((yield from runner.run(METHODS[method], layer)))
        for target, score, maps in zip(targets, scores, zip(*by_layer, strict=True), strict=True):
            raw, heat = _normalize_and_fuse(maps, group)
            explanations.append(Explanation(image, group, method, target, against, score, raw, heat))
    if question.effective:
        explanations = yield from _add_influence(explanations, outputs)
    if question.faithfulness:
        explanations = yield from _add_faithfulness(explanations, logits, dict(zip(targets, seeds, strict=True)))
    return explanations


def _subtract_class(against: int, target: int, seed: Map) -> Map:
    """The seed of a class, minus the same seed at the class `against`, which the seed may hold already."""
    difference = seed.copy()
    difference[against] = seed[against].clip(0) - seed[target]
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


def _add_influence(found: Sequence[Explanation], outputs: Arrays) -> Steps[list[Explanation]]:
    """The same maps with the influence of every pixel on their hottest cells."""
    explanations = []
    for one in found:
        cell = find_peak(one.heat)
        map_ = None if cell is None else measure_influence(one.image, outputs, one.layers[0], cell)
        explanations.append(replace(one, influence=map_))
        yield PAUSE
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


def _region(image: InputImage, place: Box, shape: tuple[int, ...]) -> Region:
    """The cells of the logits whose centres lie in a rectangle of the photo; at least the one under its centre."""
    h, w = shape
    left, top, right, bottom = place
    (r0, c0), (r1, c1) = (image.geometry.to_map(x, y, (h, w)) for x, y in ((left, top), (right, bottom)))
    row, column = (r0 + r1) / 2, (c0 + c1) / 2
    if not (0 <= row < h and 0 <= column < w):
        raise BadParameter(f"the network does not see the photo at {(left + right) / 2:g}, {(top + bottom) / 2:g}")
    rows, columns = np.arange(h) + 0.5, np.arange(w) + 0.5
    region: Region = ((rows >= r0) & (rows <= r1))[:, None] & ((columns >= c0) & (columns <= c1))
    region[int(row), int(column)] = True
    return region
