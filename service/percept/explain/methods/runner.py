"""Runs one method at one layer of one image for several seeds; one pass of the network may serve several seeds.

A method is a generator of pass requests (see `percept.explain.methods.protocol`). The runner runs the layer's tail on
the worker thread that it is called on. It yields a `LogitsRequest` for passes of the whole network, and `PAUSE` at the
end of each time slice, so that other requests have a turn on the thread.
"""

from collections.abc import Generator, Mapping, Sequence
from time import perf_counter
from typing import TypeVar

import numpy as np

from percept.bundle.manifest import Layer
from percept.explain.methods.protocol import (
    MAX_BATCH,
    LogitsRequest,
    MethodInput,
    MethodRun,
    NetworkRequest,
    PassRequest,
    PassResult,
    TailRequest,
)
from percept.explain.methods.table import Method
from percept.imaging.geometry import Map, Pixels
from percept.runtime.session import Arrays
from percept.tasks.input_image import InputImage
from percept.tasks.task import not_finite

SLICE_S = 0.05  # of a worker thread before the runner pauses
MAX_PASS_S = 0.1  # a pass of the tail that takes longer makes the next batch smaller

T = TypeVar("T")


class Pause:
    """Yielded at the end of a time slice. The runner continues in another job and needs no reply."""


PAUSE = Pause()

Wait = LogitsRequest | Pause
Steps = Generator[Wait, Map | None, T]


class MethodRunner:
    """Runs methods for the `seeds` of one image, whose trunk outputs are `outputs`."""

    def __init__(self, image: InputImage, outputs: Arrays, seeds: Sequence[Map]) -> None:
        self._image, self._outputs, self._seeds = image, outputs, seeds
        self._network = image.model.network
        self._batch_size = 1
        self._slice_start = perf_counter()

    def run(self, method: Method, layer: Layer) -> Steps[list[Map]]:
        """The map before ReLU for every seed, float32 [h,w]; raises `NetworkNotFinite`."""
        if not np.isfinite(self._outputs[layer.name]).all():
            raise not_finite(self._image.model.manifest, f"activations of layer {layer.name!r}")
        linear = self._network.is_linear(layer)
        blank = self._image.model.manifest.preprocessing.blank
        runs = [
            method.run(
                MethodInput(
                    A=self._outputs[layer.name],
                    pixels=self._image.pixels,
                    y=float((seed * self._outputs["logits"]).sum()),
                    rng=np.random.default_rng(0),
                    blank=blank,
                    linear=linear,
                    terms=max(int((seed > 0).sum()), 1),
                )
            )
            for seed in self._seeds
        ]
        self._batch_size = min(self._image.model.queue.concurrency, MAX_BATCH)
        maps: dict[int, Map] = {}
        requests = _resume(runs, dict.fromkeys(range(len(runs))), maps)
        while requests:
            results = yield from self._execute(requests, layer)
            requests = _resume(runs, results, maps)
        if not all(np.isfinite(one).all() for one in maps.values()):  # such as a power that is too large for float32
            raise not_finite(self._image.model.manifest, f"products in the map at layer {layer.name!r}")
        return [maps[i] for i in range(len(runs))]

    def _execute(self, requests: Mapping[int, PassRequest], layer: Layer) -> Steps[dict[int, PassResult]]:
        """The results of the current request of each seed."""
        results: dict[int, PassResult] = {}
        for gradients in (True, False):
            activations = {
                i: request.activations
                for i, request in requests.items()
                if isinstance(request, TailRequest) and request.gradients == gradients
            }
            if activations:
                results |= yield from self._run_tail(layer, activations, gradients)
        if len(results) < len(requests):
            results |= yield from self._run_network(requests)
        return results

    def _run_tail(self, layer: Layer, activations: Mapping[int, Map], gradients: bool) -> Steps[dict[int, PassResult]]:
        """Run the tail on the activations [n,C,h,w] of several seeds, in batches that may mix them.

        The batch size doubles after a pass shorter than `MAX_PASS_S`, and halves after a longer one.
        """
        owners = [i for i, A in activations.items() for _ in A]
        rows = [one for A in activations.values() for one in A]
        names = ["logits", "gradients"] if gradients else ["logits"]
        y: list[Map] = []
        g: list[Map] = []
        while len(y) < len(rows):
            start = perf_counter()
            part = slice(len(y), len(y) + self._batch_size)
            seeds = np.stack([self._seeds[i] for i in owners[part]])
            found = self._network.run_tail(layer, self._outputs, np.stack(rows[part]), seeds, names)
            if not all(np.isfinite(values).all() for values in found.values()):
                raise not_finite(self._image.model.manifest, f"logits or gradients after layer {layer.name!r}")
            y.extend(_weighted_sums(found["logits"], seeds))
            g.extend(found.get("gradients", ()))
            end = perf_counter()
            short = end - start < MAX_PASS_S
            self._batch_size = min(2 * self._batch_size, MAX_BATCH) if short else max(self._batch_size // 2, 1)
            if end - self._slice_start > SLICE_S:
                yield PAUSE
                self._slice_start = perf_counter()
        results = {}
        for i in activations:
            own = [n for n, owner in enumerate(owners) if owner == i]
            results[i] = PassResult(np.array([y[n] for n in own]), np.stack([g[n] for n in own]) if g else None)
        return results

    def _run_network(self, requests: Mapping[int, PassRequest]) -> Steps[dict[int, PassResult]]:
        """Run the whole network for the seeds that requested it; most request the same images for every seed."""
        results: dict[int, PassResult] = {}
        pixels: Pixels | None = None
        logits: Map | None = None
        for i, request in requests.items():
            if isinstance(request, NetworkRequest):
                if pixels is None or not np.array_equal(pixels, request.pixels):
                    pixels = request.pixels
                    logits = yield LogitsRequest(pixels)
                assert logits is not None
                results[i] = PassResult(_weighted_sums(logits, self._seeds[i][None]))
        self._slice_start = perf_counter()
        return results


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


def _weighted_sums(logits: Map, seeds: Map) -> Map:
    """y = sum(seed * logits) of every row, float32 [n]."""
    return np.asarray((logits * seeds).reshape(len(logits), -1).sum(1), np.float32)
