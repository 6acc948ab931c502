"""A served model: a loaded network, the queue in front of it, and the filter pictures of its bundle.

The folder of a bundle comes in; an object that runs images through the network leaves. It does not know which other
models are served, nor under which name clients find it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, time
from typing import TypeVar

import numpy as np

from percept.bundle import filters
from percept.bundle.manifest import Manifest
from percept.imaging.geometry import Map, Pixels
from percept.runtime.batcher import NO_OBSERVER, Batcher, BatchObserver
from percept.runtime.execution_plan import ExecutionPlan, WorkerPools
from percept.runtime.network import Network, TrunkInput
from percept.runtime.session import Arrays
from percept.telemetry.metrics import Metrics

ONLY_LOGITS = frozenset({"logits"})

Input = TypeVar("Input", bound=TrunkInput)
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Model:
    """A network with its queue, and the PNG bytes of its filter pictures by file name.

    `loaded_s` is how long loading took, in seconds; `loaded_at` is when it ended, in seconds since 1970.
    """

    manifest: Manifest
    network: Network
    queue: Batcher[TrunkInput, Arrays]
    filter_pictures: Mapping[str, bytes]
    loaded_s: float
    loaded_at: float

    @property
    def all_outputs(self) -> frozenset[str]:
        """The names of all trunk outputs that any request may need."""
        return ONLY_LOGITS.union(*(self.network.outputs_for_gradients(layer) for layer in self.manifest.layers))

    async def run(self, prepare: Callable[[], Input], finish: Callable[[Input, Arrays], T]) -> T:
        """Run the trunk on one prepared input; returns what `finish` makes from the input and its trunk outputs.

        `prepare`, the network and `finish` run on worker threads. Raises what `prepare` or `finish` raises, or
        `InferenceError`.
        """
        return await self.queue.submit(prepare, finish)  # type: ignore[arg-type]  # `finish` receives what `prepare` made

    async def logits(self, pixels: Pixels) -> Map:
        """The logits [n,...] of images uint8 [n,H,W,C]. They are queued one batch at a time, among other requests."""
        found: list[Map] = []
        for start in range(0, len(pixels), self.queue.concurrency):
            batch = pixels[start : start + self.queue.concurrency]
            found += await asyncio.gather(*map(self._logits, batch))
        return np.stack(found)

    async def _logits(self, pixels: Pixels) -> Map:
        def prepare() -> TrunkInput:
            return TrunkInput(pixels, ONLY_LOGITS)

        def finish(_: TrunkInput, outputs: Arrays) -> Map:
            return outputs["logits"]

        return await self.run(prepare, finish)


def load_model(folder: Path, plan: ExecutionPlan, pools: WorkerPools, metrics: Metrics | None = None) -> Model:
    """Load the bundle in a folder; blocks. Raises `BundleError` or `DeviceError`."""
    start = perf_counter()
    network = Network(folder, plan.device, plan.threads, plan.batch_sizes, plan.gpu_options)
    pictures = {one.file: filters.load_picture(folder, one) for one in network.manifest.filters}
    observer = _observer(network.manifest, metrics) if metrics else NO_OBSERVER
    run: Callable[[Sequence[TrunkInput]], list[Arrays]]
    run = lambda inputs: network.run_trunk(inputs, alone=pools.device.busy <= 1)  # noqa: E731
    queue = Batcher(run, plan.max_batch, plan.max_queue, pools.host, pools.device, observer)
    return Model(network.manifest, network, queue, pictures, perf_counter() - start, time())


def _observer(manifest: Manifest, metrics: Metrics) -> BatchObserver:
    labels = manifest.name, str(manifest.version)
    return BatchObserver(metrics.queue_waits.labels(*labels).observe, metrics.batch_sizes.labels(*labels).observe)
