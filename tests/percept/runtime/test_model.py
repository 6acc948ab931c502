"""A model is loaded as it was planned."""

from pathlib import Path

from percept.runtime import model
from percept.runtime.execution_plan import Plan, crews
from percept.runtime.model import load
from percept.runtime.providers import Tuning
from tests.bundles import bundle


def test_what_is_planned_reaches_the_network(monkeypatch, tmp_path: Path) -> None:
    seen = []

    class Watched(model.Network):
        def __init__(self, folder, device, threads, sizes, tuning) -> None:
            seen.append((sizes, tuning))
            super().__init__(folder, device, threads, sizes, tuning)

    monkeypatch.setattr(model, "Network", Watched)
    tuning = Tuning(memory_bytes=7)
    how = Plan("cpu", 1, 1, 2, 8, (1, 2), tuning)
    load(bundle(tmp_path), how, crews(how, 1))
    assert seen == [((1, 2), tuning)]
