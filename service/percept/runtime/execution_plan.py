"""How networks run on this machine: the device, the batch sizes, and the worker threads.

In come the settings and a number of CPUs; out come an `ExecutionPlan` and the worker pools for it. It knows no bundle.
"""

from dataclasses import dataclass

from percept.runtime.batch_sizes import choose_batch_sizes
from percept.runtime.providers import DEFAULT_GPU_OPTIONS, Device, GpuOptions
from percept.runtime.session import resolve_device
from percept.runtime.worker_pool import WorkerPool
from percept.settings import Settings

# Threads of one run on a CPU: more gain little, and compete for the cores under load.
MAX_THREADS_PER_RUN = 4
# A CPU gains nothing from batches: one image per core already uses nearly all of it.
CPU_BATCH, GPU_BATCH = 1, 16


@dataclass(frozen=True)
class ExecutionPlan:
    """How networks run: `workers` runs at once on the device, each with `threads` threads, in batches of `max_batch`.

    `max_queue` requests may wait for a network. On a GPU, batches are padded to `batch_sizes`, and `gpu_options` bounds
    the memory and names the folder for engines.
    """

    device: Device
    workers: int
    threads: int
    max_batch: int
    max_queue: int
    batch_sizes: tuple[int, ...] = ()
    gpu_options: GpuOptions = DEFAULT_GPU_OPTIONS


@dataclass(frozen=True, eq=False)
class WorkerPools:
    """The worker threads of all models: `host` decodes and draws, `device` runs networks.

    On a CPU both are the same pool, and each thread takes an image from its bytes to its outputs.
    """

    host: WorkerPool
    device: WorkerPool

    def close(self) -> None:
        """Stop the threads after their current work."""
        self.device.close()
        self.host.close()


def plan_execution(settings: Settings, threads: int) -> ExecutionPlan:
    """Plan how networks run, for `threads` threads on the host.

    Raises `DeviceError` where the settings name a device that does not work.
    """
    device = resolve_device(settings.device)
    gpu_options = GpuOptions(memory_bytes=settings.gpu_memory_bytes, engines=settings.engine_cache)
    if device == "cpu":
        # A run that is alone has several cores; runs beside each other have one each (`Network.run_trunk`).
        per_run, max_batch = min(threads, MAX_THREADS_PER_RUN), settings.max_batch or CPU_BATCH
        return ExecutionPlan(device, threads, per_run, max_batch, settings.max_queue, (), gpu_options)
    max_batch = settings.max_batch or GPU_BATCH
    return ExecutionPlan(device, 1, 1, max_batch, settings.max_queue, choose_batch_sizes(max_batch), gpu_options)


def create_worker_pools(plan: ExecutionPlan, threads: int) -> WorkerPools:
    """The worker pools for a plan, with `threads` threads on the host."""
    host = WorkerPool(threads, "host")
    return WorkerPools(host, host if plan.device == "cpu" else WorkerPool(plan.workers, "device"))
