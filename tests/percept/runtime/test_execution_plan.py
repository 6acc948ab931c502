"""How networks are run on a device: what settings and cores make of it."""

from pathlib import Path

import pytest

from percept.runtime import execution_plan as planning
from percept.runtime.execution_plan import plan
from percept.runtime.providers import PLAIN, Tuning
from percept.settings import Settings


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_gpu_gets_batches_of_fixed_sizes_and_what_bounds_it(device: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(planning, "resolve", lambda wish: wish)
    found = plan(Settings(device=device, gpu_memory_bytes=2**30, engine_cache=tmp_path), 4)
    assert (found.device, found.workers, found.threads, found.max_batch) == (device, 1, 1, 16)
    assert found.buckets == (1, 2, 4, 8, 16)
    assert found.tuning == Tuning(memory_bytes=2**30, engines=tmp_path)
    assert plan(Settings(device=device, max_batch=6), 4).buckets == (1, 2, 4, 6)


def test_a_cpu_has_no_fixed_sizes() -> None:
    found = plan(Settings(device="cpu", max_batch=8), 4)
    assert (found.max_batch, found.buckets, found.tuning) == (8, (), PLAIN)
