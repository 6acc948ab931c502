"""The memory of the GPUs, by NVIDIA's own library (NVML), which comes with `percept-serve[cuda]`.

Where it is not there or fails nothing is known of them, which is said once in the log: a service that works must not
fail for a number about it.
"""

import logging
from importlib import import_module
from typing import Any, NamedTuple

log = logging.getLogger(__name__)


class Memory(NamedTuple):
    """Of one GPU, by its index in NVML: bytes in use by anybody, and bytes that there are."""

    gpu: str
    used: int
    total: int


class Gpus:
    """Reads the memory of all GPUs that NVML sees."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._missing = False

    def memory(self) -> list[Memory]:
        """What each GPU has now; empty where it cannot be known."""
        if self._missing:
            return []
        try:
            return self._read()
        except Exception as error:  # not installed, no driver, no permission: NVML has errors of its own for each
            self._missing = True
            log.warning("the GPU's memory is not among the metrics: NVML cannot be read (%s)", error)
            return []

    def _read(self) -> list[Memory]:
        if self._nvml is None:
            nvml = import_module("pynvml")
            nvml.nvmlInit()
            self._nvml = nvml
        return [self._one(index) for index in range(self._nvml.nvmlDeviceGetCount())]

    def _one(self, index: int) -> Memory:
        found = self._nvml.nvmlDeviceGetMemoryInfo(self._nvml.nvmlDeviceGetHandleByIndex(index))
        return Memory(str(index), found.used, found.total)
