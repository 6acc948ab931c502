"""Fixtures: worker pools and batchers that are closed at the end of a test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from percept.runtime.batcher import Batcher
from percept.runtime.worker_pool import WorkerPool
from tests.percept.runtime.gate import worker_pool


@pytest.fixture
def create_pool() -> Iterator[Callable[..., WorkerPool]]:
    """A function that creates a worker pool: `create_pool(size)`."""
    with ExitStack() as stack:
        yield lambda size=1: stack.enter_context(worker_pool(size))


@pytest.fixture(params=["one pool", "two pools"])
def create_batcher(
    request: pytest.FixtureRequest, create_pool: Callable[..., WorkerPool]
) -> Callable[..., Batcher[int, int]]:
    """A function that creates a batcher: its items are prepared by the thread that runs them, or by another pool."""

    def create(run: Callable[..., Any], max_batch: int, capacity: int = 100, size: int = 1) -> Batcher[int, int]:
        device = create_pool(size)
        host = device if request.param == "one pool" else create_pool(size)
        return Batcher(run, max_batch, capacity, host, device)

    return create
