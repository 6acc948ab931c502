"""A loaded model: its network gets the settings of the execution plan, and its queue runs images and logits."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from threading import current_thread

import numpy as np
import pytest

from percept.bundle.manifest import Manifest
from percept.runtime import model
from percept.runtime.execution_plan import ExecutionPlan, create_worker_pools
from percept.runtime.model import ONLY_LOGITS, Model, load_model
from percept.runtime.network import Network, TrunkInput
from percept.runtime.providers import GpuOptions
from percept.runtime.session import Arrays
from tests.bundles import create_bundle
from tests.percept.runtime.gate import run

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Model]:
    """A marker classifier on one thread, in batches of up to two images."""
    plan = ExecutionPlan("cpu", 1, 1, 2, 8, (1, 2), GpuOptions())
    pools = create_worker_pools(plan, 1)
    yield load_model(create_bundle(tmp_path), plan, pools)
    pools.close()


def test_network_gets_the_settings_of_the_plan(monkeypatch, tmp_path: Path) -> None:
    seen = []

    class RecordingNetwork(Network):
        def __init__(self, folder, device, threads, batch_sizes, gpu_options) -> None:
            seen.append((batch_sizes, gpu_options))
            super().__init__(folder, device, threads, batch_sizes, gpu_options)

    monkeypatch.setattr(model, "Network", RecordingNetwork)
    gpu_options = GpuOptions(memory_bytes=7)
    plan = ExecutionPlan("cpu", 1, 1, 2, 8, (1, 2), gpu_options)
    load_model(create_bundle(tmp_path), plan, create_worker_pools(plan, 1))
    assert seen == [((1, 2), gpu_options)]


def test_run_prepares_and_finishes_on_a_worker(marker: Model) -> None:
    def prepare() -> TrunkInput:
        threads.append(current_thread().name)
        return TrunkInput(PIXELS[0], frozenset({"logits", "colour"}))

    def finish(prepared: TrunkInput, outputs: Arrays) -> set[str]:
        threads.append(current_thread().name)
        assert prepared.pixels is PIXELS[0] or (prepared.pixels == PIXELS[0]).all()
        return set(outputs)

    threads: list[str] = []
    assert run(marker.run(prepare, finish)) == {"logits", "colour"}
    assert len(set(threads)) == 1
    assert threads[0] != current_thread().name


def test_logits_of_many_images_are_those_of_each(marker: Model) -> None:
    found = run(marker.logits(PIXELS))
    expected = [marker.network.run_trunk([TrunkInput(one, ONLY_LOGITS)], alone=True)[0]["logits"] for one in PIXELS]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_logits_wait_one_batch_at_a_time(marker: Model) -> None:
    """Other requests have their turn between the batches, however many images one request has."""

    async def measure() -> int:
        task, deepest = asyncio.create_task(marker.logits(np.repeat(PIXELS, 4, 0))), 0
        while not task.done():
            deepest = max(deepest, marker.queue.depth)
            await asyncio.sleep(0)
        return deepest

    assert run(measure()) <= marker.queue.concurrency


def test_all_outputs_are_those_of_every_layer(marker: Model) -> None:
    manifest: Manifest = marker.manifest
    assert marker.all_outputs == {"logits", *(layer.name for layer in manifest.layers)}
