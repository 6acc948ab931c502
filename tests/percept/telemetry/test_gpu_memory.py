"""Where GPU memory cannot be read, the reader logs one warning and returns nothing."""

import logging
import sys

import pynvml
import pytest

from percept.telemetry.gpu_memory import GpuMemory, GpuMemoryReader


def test_missing_library_is_logged_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    reader = GpuMemoryReader()
    assert [reader.read() for _ in range(3)] == [[], [], []]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "NVML cannot be read" in caplog.text


def test_missing_driver_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        reader = GpuMemoryReader()
        assert [reader.read() for _ in range(3)] == [[], [], []]
        assert len(caplog.records) == 1
    else:
        gpus = GpuMemoryReader().read()
        assert [gpu.gpu for gpu in gpus] == [str(index) for index in range(len(gpus))]
        assert all(0 < gpu.used <= gpu.total for gpu in gpus)


def test_every_gpu_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions and structures are NVML's own; the numbers are invented, since this machine may have no GPU."""
    functions = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda handle: pynvml.c_nvmlMemory_t(total=80, free=80 - handle, used=handle),
    }
    for name, function in functions.items():
        monkeypatch.setattr(pynvml, name, function)
    assert GpuMemoryReader().read() == [GpuMemory("0", 0, 80), GpuMemory("1", 1, 80)]
