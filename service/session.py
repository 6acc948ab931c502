"""The only file that knows ONNX Runtime: a graph on disk in, a callable from arrays to arrays out.

CUDA that was asked for and does not work is an error here, never a silent fall back to the CPU: providers can be
listed and still fail to load, so a small convolution is run as a canary first.
"""

import base64
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import BundleError, DeviceError, InferenceError

# ONNX Runtime must open no connection of its own. Switching its events off is not enough: at the import it has set
# up its uploader already, which calls home ten seconds later (1.31, strace; microsoft/onnxruntime pull request 27379).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime as ort

Device = Literal["cpu", "cuda"]
Arrays = dict[str, NDArray[Any]]

log = logging.getLogger(__name__)

ort.disable_telemetry_events()  # Windows knows only this

CUDA = "CUDAExecutionProvider"
PROVIDERS: dict[Device, list[Any]] = {
    "cpu": ["CPUExecutionProvider"],
    # HEURISTIC plans a convolution quickly and well; TF32 would cost three digits of every gradient.
    "cuda": [(CUDA, {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"})],
}
# Threads that wait sleep instead of burning a core that others need, and take their work in small pieces, so that a
# graph that runs twice at once loses little (2 cores, saturated: 0.94 to 1.03 of one thread for each run).
POOLED = {"session.intra_op.allow_spinning": "0", "session.dynamic_block_base": "8"}
ERROR, FATAL = 3, 4  # what ONNX Runtime prints
NVIDIA_NODES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))

# One Conv, x [1,1,3,3] with a kernel of ones → y [1,1,1,1]; `tests/test_session.py` builds it anew and compares.
CANARY = base64.b64decode(
    "CAg6iAEKDwoBeAoBdxIBeSIEQ29udhIGY2FuYXJ5KjMIAQgBCAMIAxABQgF3SiQAAIA/AACAPwAAgD8AAIA/AACAPwAAgD8A"
    "AIA/AACAPwAAgD9aGwoBeBIWChQIARIQCgIIAQoCCAEKAggDCgIIA2IbCgF5EhYKFAgBEhAKAggBCgIIAQoCCAEKAggBQgQK"
    "ABAR"
)


@dataclass(frozen=True)
class Port:
    """An input or output of a graph: its element type as ONNX Runtime writes it, and its shape.

    A symbolic dimension is a string or None.
    """

    type: str
    shape: tuple[int | str | None, ...]


class Session:
    """One loaded graph. `run` may be called from several threads at once."""

    def __init__(self, file: Path | bytes, device: Device = "cpu", threads: int = 1, quiet: bool = False) -> None:
        """Load a graph, its external weights looked up beside it.

        `threads` is the number that one run may use inside an operator; `quiet` keeps ONNX Runtime from printing the
        errors that it raises too. Raises `BundleError` where ONNX Runtime refuses the graph, `DeviceError` where it
        did not take the device.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        for key, value in POOLED.items() if threads > 1 else ():
            options.add_session_config_entry(key, value)
        options.log_severity_level = FATAL if quiet else ERROR
        try:
            self._session = ort.InferenceSession(
                file if isinstance(file, bytes) else str(file), options, PROVIDERS[device]
            )
        except Exception as error:  # its errors share no base class
            raise BundleError(f"ONNX Runtime refuses the graph: {_first_line(error)}") from error
        if device == "cuda" and CUDA not in self._session.get_providers():
            raise DeviceError("ONNX Runtime fell back to the CPU although CUDA was asked for")
        self.inputs = {p.name: Port(p.type, tuple(p.shape)) for p in self._session.get_inputs()}
        self.outputs = {p.name: Port(p.type, tuple(p.shape)) for p in self._session.get_outputs()}

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Arrays:
        """The named outputs for the given inputs; the whole graph runs whichever are named.

        Raises `InferenceError` where ONNX Runtime fails.
        """
        try:
            arrays = self._session.run(list(outputs), dict(feeds))
        except Exception as error:  # its errors share no base class
            raise InferenceError(f"ONNX Runtime failed: {_first_line(error)}") from error
        return dict(zip(outputs, arrays, strict=True))


def resolve(wish: Literal["auto", "cpu", "cuda"]) -> Device:
    """The device to use: `auto` takes CUDA where a card is present and working, and says so where it is not.

    Raises `DeviceError` with what to do where CUDA was asked for by name and does not work.
    """
    if wish == "cpu" or (wish == "auto" and not any(node.exists() for node in NVIDIA_NODES)):
        return "cpu"
    reason = _cuda_fault()
    if reason is None:
        return "cuda"
    if wish == "cuda":
        raise DeviceError(
            f"CUDA was asked for and does not work: {reason}. Install percept[cuda] and a driver for it, "
            "or set PERCEPT_DEVICE=cpu"
        )
    log.warning("a CUDA device is present but does not work (%s); serving on the CPU", reason)
    return "cpu"


def _cuda_fault() -> str | None:
    """Why CUDA does not work, or None if the canary convolution gave the right answer on it."""
    if CUDA not in ort.get_available_providers():
        return "this build of ONNX Runtime has no CUDA"
    try:
        ort.preload_dlls()
        canary = Session(CANARY, "cuda").run({"x": np.ones((1, 1, 3, 3), np.float32)}, ["y"])
    except (BundleError, DeviceError, InferenceError) as error:
        return str(error)
    return None if canary["y"].item() == 9 else "a convolution gave a wrong answer"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
