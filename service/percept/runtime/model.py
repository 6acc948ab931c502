"""A model in service: a loaded network, the queue in front of it, and the pictures that its bundle has.

In comes the folder of a bundle, out goes what answers for it. Who else is served, and by which name, it does not know.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, time
from typing import TypeVar

import numpy as np

from percept.bundle import filters
from percept.bundle.manifest import Manifest
from percept.imaging.decode import Map, Pixels
from percept.runtime.batcher import UNWATCHED, Batcher, Watch
from percept.runtime.execution_plan import Crews, Plan
from percept.runtime.network import Look, Network
from percept.runtime.session import Arrays
from percept.telemetry.metrics import Metrics

LOGITS = frozenset({"logits"})

L = TypeVar("L", bound=Look)


@dataclass(frozen=True, eq=False)
class Model:
    """A network in service: one queue in front of it, and the PNGs of its filters by file.

    `loaded_s` is how long loading took, `loaded_at` when it was done, in seconds since 1970.
    """

    network: Network
    queue: Batcher[Look, Arrays]
    drawn: Mapping[str, bytes]
    loaded_s: float
    loaded_at: float

    @property
    def manifest(self) -> Manifest:
        """The manifest of its bundle."""
        return self.network.manifest

    @property
    def known(self) -> frozenset[str]:
        """All that the trunk gives of an image."""
        return LOGITS.union(*(self.network.cut(layer) for layer in self.manifest.layers))

    async def run(self, make: Callable[[], L]) -> tuple[L, Arrays]:
        """What `make` gives, called on a thread when its turn has come, and the trunk's outputs that it wants.

        Raises what `make` raises, or `InferenceError`.
        """
        return await self.queue.submit(make)  # type: ignore[return-value]  # what is made comes back

    async def logits(self, pixels: Pixels) -> Map:
        """The logits of images [n,H,W,3], queued with everybody else's, never more than one batch of them at a time."""
        found: list[Map] = []
        for start in range(0, len(pixels), self.queue.width):
            batch = [Look(one, LOGITS) for one in pixels[start : start + self.queue.width]]
            rows = await asyncio.gather(*(self.queue.submit(partial(_ready, look)) for look in batch))
            found += [row["logits"] for _, row in rows]
        return np.stack(found)


def load(folder: Path, plan: Plan, crews: Crews, metrics: Metrics | None = None) -> Model:
    """The bundle in a folder, ready to answer; blocks, and raises `BundleError` or `DeviceError`."""
    start = perf_counter()
    network = Network(folder, plan.device, plan.threads, plan.batch_sizes, plan.tuning)
    drawn = {one.file: filters.load(folder, one) for one in network.manifest.filters}

    def run(looks: Sequence[Look]) -> list[Arrays]:
        return network.forward(looks, alone=crews.device.busy <= 1)

    watch = _watch(network.manifest, metrics) if metrics else UNWATCHED
    queue = Batcher(run, plan.max_batch, plan.max_queue, crews.host, crews.device, watch)
    return Model(network, queue, drawn, perf_counter() - start, time())


def _watch(manifest: Manifest, metrics: Metrics) -> Watch:
    labels = manifest.name, str(manifest.version)
    return Watch(metrics.waits.labels(*labels).observe, metrics.batches.labels(*labels).observe)


def _ready(look: Look) -> Look:
    return look
