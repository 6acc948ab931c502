"""Fixtures: models that are loaded in the process of the tests."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from percept.runtime.execution_plan import ExecutionPlan, create_worker_pools
from percept.runtime.model import Model, load_model
from percept.settings import BUILT_IN_BUNDLES


@pytest.fixture(scope="session")
def load(bundles: Path) -> Iterator[Callable[[str], Model]]:
    """A function that loads a marker bundle such as `classification-crop`, or a built-in one, by name."""
    plan = ExecutionPlan("cpu", 1, 1, 1, 8)
    pools = create_worker_pools(plan, 1)

    @cache
    def load(name: str) -> Model:
        root = bundles if (bundles / name).exists() else BUILT_IN_BUNDLES
        return load_model(root / name / "1", plan, pools)

    yield load
    pools.close()
