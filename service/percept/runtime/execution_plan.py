"""How networks are run on this machine: on which device, in batches of what size, and by which threads.

In come settings and a number of cores, out go numbers and threads. It knows no bundle.
"""

from dataclasses import dataclass

from percept.runtime import batch_sizes
from percept.runtime.providers import PLAIN, Device, Tuning
from percept.runtime.session import resolve
from percept.runtime.worker_pool import Crew
from percept.settings import Settings

INNER = 4  # threads of one run at most: more gain little, and are in each other's way under load


@dataclass(frozen=True)
class Plan:
    """How networks are run: on what, how many runs at once, each by how many threads, in batches of what size, with how
    many waiting. On a GPU batches are padded to the `buckets`, and `tuning` bounds what it may use.
    """

    device: Device
    workers: int
    threads: int
    max_batch: int
    max_queue: int
    batch_sizes: tuple[int, ...] = ()
    tuning: Tuning = PLAIN


def plan(settings: Settings, threads: int) -> Plan:
    """How to run networks by settings, on so many cores.

    Raises `DeviceError` where a device was asked for by name and does not work.
    """
    device = resolve(settings.device)
    # A CPU gains nothing from batches: one image per core is already near its limit.
    workers, batch = (threads, 1) if device == "cpu" else (1, 16)
    # Alone a run has all cores; with others beside it each gets along with its own.
    inner = min(threads, INNER) if device == "cpu" else 1
    most = settings.max_batch or batch
    tuning = Tuning(memory_bytes=settings.gpu_memory_bytes, engines=settings.engine_cache)
    sizes = () if device == "cpu" else batch_sizes.sizes(most)
    return Plan(device, workers, inner, most, settings.max_queue, sizes, tuning)


@dataclass(frozen=True, eq=False)
class Crews:
    """Who works for all models: `host` decodes and draws, `device` runs networks. On a CPU they are the same threads,
    each taking an image from its bytes to its outputs.
    """

    host: Crew
    device: Crew

    def close(self) -> None:
        """Stop the threads once they are done with what they hold."""
        self.device.close()
        self.host.close()


def crews(plan: Plan, threads: int) -> Crews:
    """The threads that a plan needs, so many of them for the host."""
    host = Crew(threads, "host")
    return Crews(host, host if plan.device == "cpu" else Crew(plan.workers, "device"))
