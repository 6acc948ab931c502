"""How networks are run on this machine: on which device, in batches of what size, and by which threads.

In come settings and a number of cores, out go numbers and threads. It knows no bundle.
"""

from dataclasses import dataclass

from percept.runtime import batch_sizes
from percept.runtime.providers import DEFAULT_GPU_OPTIONS, Device, GpuOptions
from percept.runtime.session import resolve_device
from percept.runtime.worker_pool import WorkerPool
from percept.settings import Settings

INNER = 4  # threads of one run at most: more gain little, and are in each other's way under load


@dataclass(frozen=True)
class ExecutionPlan:
    """How networks are run: on what, how many runs at once, each by how many threads, in batches of what size, with how
    many waiting. On a GPU batches are padded to the `buckets`, and `tuning` bounds what it may use.
    """

    device: Device
    workers: int
    threads: int
    max_batch: int
    max_queue: int
    batch_sizes: tuple[int, ...] = ()
    tuning: GpuOptions = DEFAULT_GPU_OPTIONS


def plan_execution(settings: Settings, threads: int) -> ExecutionPlan:
    """How to run networks by settings, on so many cores.

    Raises `DeviceError` where a device was asked for by name and does not work.
    """
    device = resolve_device(settings.device)
    # A CPU gains nothing from batches: one image per core is already near its limit.
    workers, batch = (threads, 1) if device == "cpu" else (1, 16)
    # Alone a run has all cores; with others beside it each gets along with its own.
    inner = min(threads, INNER) if device == "cpu" else 1
    most = settings.max_batch or batch
    tuning = GpuOptions(memory_bytes=settings.gpu_memory_bytes, engines=settings.engine_cache)
    sizes = () if device == "cpu" else batch_sizes.choose_batch_sizes(most)
    return ExecutionPlan(device, workers, inner, most, settings.max_queue, sizes, tuning)


@dataclass(frozen=True, eq=False)
class WorkerPools:
    """Who works for all models: `host` decodes and draws, `device` runs networks. On a CPU they are the same threads,
    each taking an image from its bytes to its outputs.
    """

    host: WorkerPool
    device: WorkerPool

    def close(self) -> None:
        """Stop the threads once they are done with what they hold."""
        self.device.close()
        self.host.close()


def create_worker_pools(plan: ExecutionPlan, threads: int) -> WorkerPools:
    """The threads that a plan needs, so many of them for the host."""
    host = WorkerPool(threads, "host")
    return WorkerPools(host, host if plan.device == "cpu" else WorkerPool(plan.workers, "device"))
