"""The memory of the GPUs, read through NVIDIA's management library (NVML).

The package `nvidia-ml-py` comes with `percept-serve[cuda]`. Where NVML is missing or fails, the reader logs one warning
and returns nothing from then on: a service that works must not fail for a metric.
"""

import logging
from importlib import import_module
from typing import Any, NamedTuple

log = logging.getLogger(__name__)


class GpuMemory(NamedTuple):
    """The memory of one GPU in bytes, `used` by all processes together. `gpu` is its index in NVML."""

    gpu: str
    used: int
    total: int


class GpuMemoryReader:
    """Reads the memory of every GPU that NVML lists."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._unavailable = False

    def read(self) -> list[GpuMemory]:
        """Return the current memory of each GPU; empty where NVML is not available."""
        if self._unavailable:
            return []
        try:
            return self._read()
        except Exception as error:  # not installed, no driver, no permission: NVML has an exception class for each
            self._unavailable = True
            log.warning("the metrics do not include GPU memory: NVML cannot be read (%s)", error)
            return []

    def _read(self) -> list[GpuMemory]:
        if self._nvml is None:
            nvml = import_module("pynvml")
            nvml.nvmlInit()
            self._nvml = nvml
        return [self._read_gpu(index) for index in range(self._nvml.nvmlDeviceGetCount())]

    def _read_gpu(self, index: int) -> GpuMemory:
        info = self._nvml.nvmlDeviceGetMemoryInfo(self._nvml.nvmlDeviceGetHandleByIndex(index))
        return GpuMemory(str(index), info.used, info.total)
