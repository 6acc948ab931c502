"""The network around one image at one layer: what methods ask of it is answered here.

Methods are generators that ask for passes of the network (`asking`, `methods`). A `Probe` gives them what they ask, for
several classes in one batch, and waits between batches, so that a slow method holds nobody up and ends when it is
cancelled.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from typing import NamedTuple

import numpy as np

from percept.bundle.manifest import Layer
from percept.explain.judge import Work
from percept.explain.methods import Method
from percept.explain.protocol import (
    MAX_BATCH,
    MethodInput,
    MethodRun,
    NetworkRequest,
    PassRequest,
    PassResult,
    TailRequest,
)
from percept.imaging.geometry import Map, Pixels
from percept.runtime.session import Arrays
from percept.tasks.input_image import InputImage

BRIEF_S = 0.1  # that a batch of the tail may take before the next is smaller


class Probe:
    """The network around one image at one layer, asked about several seeds at once."""

    def __init__(self, view: InputImage, row: Arrays, layer: Layer, seeds: Sequence[Map], work: Work) -> None:
        self._view, self._row, self._layer, self._seeds, self._work = view, row, layer, seeds, work
        self._model = view.model
        self._rows = min(view.model.queue.width, MAX_BATCH)

    async def maps(self, method: Method) -> list[Map]:
        """The map before ReLU for every seed, float32 [h,w]."""
        looks: list[MethodRun] = []
        maps: dict[int, Map] = {}
        try:
            asks = await self._work(self._begin, method, looks, maps)
            while asks:
                asks = await self._work(_advance, looks, await self._answers(asks), maps)
        finally:
            for look in looks:
                with suppress(ValueError):  # cancelled, and still computing on its thread
                    look.close()
        return [maps[i] for i in range(len(looks))]

    def _begin(self, method: Method, looks: list[MethodRun], maps: dict[int, Map]) -> dict[int, PassRequest]:
        """Up to what is asked, or beyond it where one small pass is the answer: most methods are at their end then."""
        linear = self._model.network.linear(self._layer)
        looks += [method.run(self._scene(seed, linear)) for seed in self._seeds]
        asks = _advance(looks, dict.fromkeys(range(len(looks))), maps)
        alone = {i: ask.activations for i, ask in asks.items() if isinstance(ask, TailRequest) and ask.gradients}
        if len(alone) < len(asks) or sum(map(len, alone.values())) > self._rows:
            return asks
        owners, rows = _lined_up(alone)
        return _advance(looks, _answered(owners, [self._pass(rows, owners, True)]), maps) if rows else {}

    def _scene(self, seed: Map, linear: bool) -> MethodInput:
        y = float((seed * self._row["logits"]).sum())
        blank = self._model.manifest.preprocessing.blank
        terms = max(int((seed > 0).sum()), 1)
        return MethodInput(
            self._row[self._layer.name], self._view.pixels, y, np.random.default_rng(0), blank, linear, terms
        )

    async def _answers(self, asks: Mapping[int, PassRequest]) -> dict[int, PassResult]:
        """What the network says to all that is asked, each for its own seed."""
        found: dict[int, PassResult] = {}
        for gradients in (True, False):
            alike = {i: ask for i, ask in asks.items() if isinstance(ask, TailRequest) and ask.gradients == gradients}
            found |= await self._by_tail({i: ask.activations for i, ask in alike.items()}, gradients)
        same: tuple[Pixels, Map] | None = None
        for i, ask in asks.items():
            if isinstance(ask, NetworkRequest):
                if same is None or not np.array_equal(same[0], ask.pixels):  # most ask the same for every class
                    same = ask.pixels, await self._model.logits(ask.pixels)
                found[i] = PassResult(_select(same[1], self._seeds[i][None]), None)
        return found

    async def _by_tail(self, asked: Mapping[int, Map], gradients: bool) -> dict[int, PassResult]:
        """All activations through the tail, in batches that mix what is asked for several seeds.

        A batch grows while it is brief, so that none is long, wherever the layer lies.
        """
        owners, rows = _lined_up(asked)
        passes: list[Passed] = []
        start = 0
        while start < len(rows):
            part = slice(start, start + self._rows)
            passes.append(await self._work(self._pass, rows[part], owners[part], gradients))
            start = part.stop
            self._rows = min(2 * self._rows, MAX_BATCH) if passes[-1].seconds < BRIEF_S else max(self._rows // 2, 1)
        return _answered(owners, passes)

    def _pass(self, rows: Sequence[Map], owners: Sequence[int], gradients: bool) -> "Passed":
        """One pass of the tail, with g where it is wanted."""
        begun = perf_counter()
        seeds = np.stack([self._seeds[i] for i in owners])
        outputs = ["logits", "gradients"] if gradients else ["logits"]
        found = self._model.network.tail(self._layer, self._row, np.stack(rows), seeds, outputs)
        return Passed(_select(found["logits"], seeds), found.get("gradients"), perf_counter() - begun)


class Passed(NamedTuple):
    """What one pass of a tail gave: y [n], perhaps g [n,C,h,w], and how long it took."""

    y: Map
    g: Map | None
    seconds: float


def _advance(
    looks: Sequence[MethodRun], turns: Mapping[int, PassResult | None], maps: dict[int, Map]
) -> dict[int, PassRequest]:
    """Let methods compute with what they were answered, up to what they ask next, or to their maps."""
    asks: dict[int, PassRequest] = {}
    for i, answer in turns.items():
        try:
            asks[i] = looks[i].send(answer)  # type: ignore[arg-type]  # None begins a generator
        except StopIteration as stop:
            maps[i] = stop.value
    return asks


def _lined_up(asked: Mapping[int, Map]) -> tuple[list[int], list[Map]]:
    """All rows of several asks, and whose each is."""
    return [i for i, A in asked.items() for _ in A], [one for A in asked.values() for one in A]


def _answered(owners: Sequence[int], passes: Sequence[Passed]) -> dict[int, PassResult]:
    """What several passes said, each to its owner."""
    y = np.array([one for passed in passes for one in passed.y], np.float32)
    g = [one for passed in passes if passed.g is not None for one in passed.g]
    mine = {i: [n for n, owner in enumerate(owners) if owner == i] for i in dict.fromkeys(owners)}
    return {i: PassResult(y[places], np.stack([g[n] for n in places]) if g else None) for i, places in mine.items()}


def _select(logits: Map, seeds: Map) -> Map:
    """sum(seed * logits) of every row."""
    return np.asarray((logits * seeds).reshape(len(logits), -1).sum(1), np.float32)
