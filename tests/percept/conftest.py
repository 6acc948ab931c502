"""Fixtures: marker models of the shared bundles, loaded once."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from percept.runtime.execution_plan import ExecutionPlan, create_worker_pools
from percept.runtime.model import Model, load_model


@pytest.fixture(scope="session")
def load(bundles: Path) -> Iterator[Callable[[str], Model]]:
    """A function that loads a marker bundle by its name, such as `classification-crop`."""
    plan = ExecutionPlan("cpu", 1, 1, 1, 8)
    pools = create_worker_pools(plan, 1)
    yield cache(lambda name: load_model(bundles / name / "1", plan, pools))
    pools.close()
