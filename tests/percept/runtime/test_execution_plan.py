"""The execution plan that follows from a device, the settings and the number of CPUs."""

from pathlib import Path

import pytest

from percept.runtime import execution_plan
from percept.runtime.execution_plan import create_worker_pools, plan_execution
from percept.runtime.providers import DEFAULT_GPU_OPTIONS, GpuOptions
from percept.settings import Settings


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_gpu_gets_fixed_batch_sizes_and_its_options(
    device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(execution_plan, "resolve_device", lambda setting: setting)
    plan = plan_execution(Settings(device=device, gpu_memory_bytes=2**30, engine_cache=tmp_path), 4)
    assert (plan.device, plan.workers, plan.threads, plan.max_batch) == (device, 1, 1, 16)
    assert plan.batch_sizes == (1, 2, 4, 8, 16)
    assert plan.gpu_options == GpuOptions(memory_bytes=2**30, engines=tmp_path)
    assert plan_execution(Settings(device=device, max_batch=6), 4).batch_sizes == (1, 2, 4, 6)


def test_cpu_gets_no_fixed_batch_sizes() -> None:
    plan = plan_execution(Settings(device="cpu", max_batch=8), 4)
    assert (plan.max_batch, plan.batch_sizes, plan.gpu_options) == (8, (), DEFAULT_GPU_OPTIONS)


@pytest.mark.parametrize(("threads", "per_run"), [(1, 1), (2, 2), (4, 4), (16, 4)])
def test_cpu_has_a_worker_for_every_thread(threads: int, per_run: int) -> None:
    plan = plan_execution(Settings(device="cpu"), threads)
    assert (plan.workers, plan.threads, plan.max_batch) == (threads, per_run, 1)


def test_cpu_uses_one_pool_and_gpu_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_plan, "resolve_device", lambda setting: setting)
    for device, shared in (("cpu", True), ("cuda", False)):
        pools = create_worker_pools(plan_execution(Settings(device=device), 3), 3)
        assert (pools.host is pools.device) == shared
        assert (pools.host.size, pools.device.size) == (3, 3 if shared else 1)
        pools.close()
