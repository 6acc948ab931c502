"""A model is loaded as it was planned."""

from pathlib import Path

from percept.runtime import model
from percept.runtime.execution_plan import ExecutionPlan, create_worker_pools
from percept.runtime.model import load_model
from percept.runtime.providers import GpuOptions
from tests.bundles import create_bundle


def test_what_is_planned_reaches_the_network(monkeypatch, tmp_path: Path) -> None:
    seen = []

    class Watched(model.Network):
        def __init__(self, folder, device, threads, sizes, tuning) -> None:
            seen.append((sizes, tuning))
            super().__init__(folder, device, threads, sizes, tuning)

    monkeypatch.setattr(model, "Network", Watched)
    tuning = GpuOptions(memory_bytes=7)
    how = ExecutionPlan("cpu", 1, 1, 2, 8, (1, 2), tuning)
    load_model(create_bundle(tmp_path), how, create_worker_pools(how, 1))
    assert seen == [((1, 2), tuning)]
