"""A GPU whose memory cannot be read costs a line in the log and nothing else."""

import logging
import sys

import pynvml
import pytest

from percept.telemetry.gpu_memory import Gpus, Memory


def test_a_library_that_is_not_installed_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gpus = Gpus()
    assert [gpus.memory() for _ in range(3)] == [[], [], []]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "NVML cannot be read" in caplog.text


def test_a_machine_without_a_driver_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        gpus = Gpus()
        assert [gpus.memory() for _ in range(3)] == [[], [], []]
        assert len(caplog.records) == 1
    else:
        found = Gpus().memory()
        assert [one.gpu for one in found] == [str(index) for index in range(len(found))]
        assert all(0 < one.used <= one.total for one in found)


def test_every_gpu_that_the_library_sees_is_read(monkeypatch) -> None:
    """NVML's names and structures are its own; what a real GPU says was not seen."""
    answers = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda handle: pynvml.c_nvmlMemory_t(total=80, free=80 - handle, used=handle),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    assert Gpus().memory() == [Memory("0", 0, 80), Memory("1", 1, 80)]
