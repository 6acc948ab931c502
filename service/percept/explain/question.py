"""Questions about one image, answered by methods: for each method, each group of layers and each class one map.

What is asked is checked before an image is looked at; what methods ask of the network is the business of `probe`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from percept.bundle.manifest import IMAGE, Layer
from percept.errors import BadParameter, GradientsUnavailable, MethodUnavailable, PerceptError, UnknownLayer
from percept.explain.faithfulness import Faithfulness
from percept.explain.influence import image_layer, influence
from percept.explain.judge import Work, check, judged, scorer
from percept.explain.maps import fuse, peak, unit
from percept.explain.methods import METHODS
from percept.explain.runner import Probe
from percept.imaging.decode import Box, Map
from percept.runtime.model import Model
from percept.runtime.session import Arrays
from percept.tasks.input_image import View
from percept.tasks.table import TASKS, Cells, class_index

MAX_MAPS = 64  # in one answer
MAX_JUDGED = 16  # of which the faithfulness is measured: as many passes as two of the slowest maps
PIXELS_SHOWN = 0.99  # of the image's own pixels in full: the rest are as hot as can be


@dataclass(frozen=True)
class Question:
    """What is asked of an image; empty is left to the model.

    Each entry of `layers` is a group whose maps are fused into one. Without `targets` the `top` most important
    classes are explained. `against` is subtracted from each target. `place` is a rectangle (left, top, right, bottom)
    of the photo, or a point of no extent: for a segmenter, the pixels that are meant. `faithfulness` asks how far each
    map can be trusted, `effective` what moves its hottest cell.
    """

    methods: tuple[str, ...] = ("gradcam",)
    layers: tuple[tuple[str, ...], ...] = ()
    targets: tuple[str, ...] = ()
    top: int = 1
    against: str | None = None
    place: Box | None = None
    faithfulness: bool = False
    effective: bool = False


@dataclass(frozen=True, eq=False)
class Explanation:
    """One map: `raw` before ReLU and `heat` in [0,1], both float32 [h,w] in cells of the layer.

    Of several layers fused `raw` is the fused heat, as fine as the finest of them. `influence` [H,W] is that of the
    network's pixels on the hottest cell, where it was asked for and there is one.
    """

    view: View
    layers: tuple[Layer, ...]
    method: str
    target: int
    against: int | None
    score: float
    raw: Map
    heat: Map
    faithfulness: Faithfulness | None = None
    influence: Map | None = None

    @property
    def layer(self) -> str:
        """The names of its layers, as they were asked for."""
        return "+".join(layer.name for layer in self.layers)


def find_layer(model: Model, name: str) -> Layer:
    """The layer of that name; raises `UnknownLayer` with what there is."""
    layer = model.manifest.layer(name)
    if layer is None:
        names = ", ".join(layer.name for layer in model.manifest.layers)
        raise UnknownLayer(f"model {model.manifest.name!r} has no layer {name!r}; it has {names}")
    return layer


def fault(model: Model, layer: Layer, method: str) -> PerceptError | None:
    """Why a method cannot be used at a layer; None where it can."""
    row = METHODS[method]
    if row.needs in ("gradients", "tail") and layer.tail is None:
        return GradientsUnavailable(f"layer {layer.name!r} has no gradients: {layer.unavailable}")
    if layer.name == IMAGE and not row.pixels:
        return MethodUnavailable(
            f"{method} weighs feature maps, and the image is none; take saliency, or another layer"
        )
    if row.alone and model.network.pooled(layer):
        return MethodUnavailable(
            f"behind {layer.name!r} comes a global average: the gradient is the same in every cell, and {method} shows "
            "nothing; take an earlier layer"
        )
    if row.linear and not model.network.pooled(layer):
        return MethodUnavailable(
            f"{method} needs global average pooling and one linear layer behind {layer.name!r}; take gradcam"
        )
    return None


class Explainer:
    """A question that was found to make sense for a model, before any image is looked at."""

    def __init__(self, model: Model, question: Question) -> None:
        """Raises `UnknownLayer`, `UnknownClass`, `BadParameter`, or what `fault` gives."""
        self.model, self.question = model, question
        manifest = model.manifest
        if question.place is not None and not TASKS[manifest.task].cells:
            raise BadParameter("x, y and region are for segmentation: a classifier's classes have no pixels")
        names = question.layers or ((manifest.cam_layer,),)
        self.groups = [tuple(find_layer(model, name) for name in group) for group in names]
        for method, group in product(question.methods, self.groups):
            if found := next(filter(None, (fault(model, layer, method) for layer in group)), None):
                raise found
        self.targets = [class_index(manifest, target) for target in question.targets]
        self.against = None if question.against is None else class_index(manifest, question.against)
        classes = len(self.targets) or min(question.top, len(manifest.labels))
        count = len(question.methods) * len(self.groups) * classes
        if count > MAX_MAPS:
            raise BadParameter(f"{count} maps are asked for; at most {MAX_MAPS} are made at once")
        for group in self.groups if question.effective else ():
            if len(set(group)) > 1:
                raise BadParameter("field=effective is for maps of one layer: of several fused no cell is one's own")
            image_layer(model, group[0])
        if question.faithfulness:
            check(manifest, self.against)
            if count > MAX_JUDGED:
                raise BadParameter(
                    f"the faithfulness of {count} maps is asked for; that of {MAX_JUDGED} is measured at most"
                )

    @property
    def outputs(self) -> frozenset[str]:
        """The trunk outputs that the answer needs."""
        cuts = (self.model.network.cut(layer) for group in self.groups for layer in group)
        return frozenset({"logits", IMAGE} if self.question.effective else {"logits"}).union(*cuts)

    async def answer(self, view: View, row: Arrays, work: Work) -> list[Explanation]:
        """The maps, by method, then group of layers, then class; raises `TargetAbsent` or `BadParameter`."""
        manifest, task, logits = view.model.manifest, view.task, row["logits"]
        cells = _cells(view, self.question.place, logits.shape[1:])
        targets = self.targets or task.targets(manifest, logits, cells)[: self.question.top]
        seeds = [task.seed(manifest, logits, target, cells) for target in targets]
        scores = [task.score(manifest, logits, *pair) for pair in zip(targets, seeds, strict=True)]
        asked = [_opposed(seed, target, self.against) for seed, target in zip(seeds, targets, strict=True)]
        found = []
        for method, group in product(self.question.methods, self.groups):
            by_layer = [await Probe(view, row, layer, asked, work).maps(METHODS[method]) for layer in group]
            for target, score, maps in zip(targets, scores, zip(*by_layer, strict=True), strict=True):
                raw, heat = _joined(maps, group)
                found.append(Explanation(view, group, method, target, self.against, score, raw, heat))
        if self.question.effective:
            found = [await self._traced(one, row, work) for one in found]
        if not self.question.faithfulness:
            return found
        by_target = dict(zip(targets, seeds, strict=True))
        return [await self._judged(one, logits, by_target[one.target], work) for one in found]

    async def _traced(self, one: Explanation, row: Arrays, work: Work) -> Explanation:
        """The same map, and what moves its hottest cell."""
        cell = peak(one.heat)
        if cell is None:
            return one
        return replace(one, influence=await work(influence, one.view, row, one.layers[0], cell))

    async def _judged(self, one: Explanation, logits: Map, seed: Map, work: Work) -> Explanation:
        """The same map, and how far it can be trusted."""
        score = scorer(self.model.manifest, seed, one.target, one.against)
        return replace(one, faithfulness=await judged(self.model, one.view.pixels, logits, one.heat, score, work))


def _opposed(seed: Map, target: int, against: int | None) -> Map:
    """The seed of a class minus the same of another."""
    if against is None:
        return seed
    both = seed.copy()
    both[against] -= seed[target]
    return both


def _joined(maps: Sequence[Map], group: Sequence[Layer]) -> tuple[Map, Map]:
    """The raw map and the heat of one layer, or of several fused."""
    heats = [unit(one, PIXELS_SHOWN if layer.name == IMAGE else 1) for one, layer in zip(maps, group, strict=True)]
    if len(maps) == 1:
        return maps[0], heats[0]
    fused = fuse(heats)
    return fused, unit(fused)


def _cells(view: View, place: Box | None, shape: tuple[int, ...]) -> Cells | None:
    """The cells of the logits whose centres lie in a rectangle of the photo; at least the one under its middle."""
    if place is None:
        return None
    h, w = shape
    left, top, right, bottom = place
    (r0, c0), (r1, c1) = (view.geometry.find(x, y, (h, w)) for x, y in ((left, top), (right, bottom)))
    row, column = (r0 + r1) / 2, (c0 + c1) / 2
    if not (0 <= row < h and 0 <= column < w):
        raise BadParameter(f"the network did not see the photo at {(left + right) / 2:g}, {(top + bottom) / 2:g}")
    rows, columns = np.arange(h) + 0.5, np.arange(w) + 0.5
    cells: Cells = ((rows >= r0) & (rows <= r1))[:, None] & ((columns >= c0) & (columns <= c1))
    cells[int(row), int(column)] = True
    return cells
