"""The only file that knows ONNX Runtime: a graph on disk in, a callable from arrays to arrays out.

A device that was asked for and does not work is an error here, never a silent fall back to another: providers can be
listed and still fail to load, so a small convolution is run as a canary first.
"""

import base64
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from percept import process
from percept.errors import BundleError, DeviceError, InferenceError
from percept.runtime.providers import CUDA, DEFAULT_GPU_OPTIONS, TENSORRT, execution_providers
from percept.runtime.providers import Device as Device  # for whoever opens a session
from percept.runtime.providers import GpuOptions as GpuOptions

process.disable_onnxruntime_telemetry()
import onnxruntime as ort  # noqa: E402  # reads the variable when it is imported

Arrays = dict[str, NDArray[Any]]

log = logging.getLogger(__name__)

ORT_VERSION: str = ort.__version__

SAME_AS_REQUESTED = 1  # of an arena: grow by what is requested, not to the next power of two


def _configure_process() -> None:
    """Set what ONNX Runtime keeps for the whole process, once: no telemetry, and one CPU arena for all sessions.

    A session of its own arena keeps its greatest need for itself, rounded up to a power of two (ResNet-50 loaded twice:
    80 MB less with a shared arena, SqueezeNet 26 MB).
    """
    ort.disable_telemetry_events()  # the environment variable has no effect on Windows
    ort.create_and_register_allocator(
        ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT),
        ort.OrtArenaCfg({"arena_extend_strategy": SAME_AS_REQUESTED}),
    )


_configure_process()

# How the threads of one run wait for each other. Where other runs want the cores too they sleep, and take their work in
# small pieces, so that a graph that runs twice at once loses little. A run that is alone spins until it is over.
SHARED = {"session.intra_op.allow_spinning": "0", "session.dynamic_block_base": "8"}
ALONE = {"session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "1"}
ERROR, FATAL = 3, 4  # what ONNX Runtime prints
# What to do about an error, by what ONNX Runtime, CUDA or TensorRT write in it.
NO_MEMORY = "out of memory: set a smaller PERCEPT_MAX_BATCH, or a greater PERCEPT_GPU_MEMORY_BYTES where one is set"
NO_PROFILE = "TensorRT cannot take this graph as a whole: set PERCEPT_DEVICE=cuda"
ADVICE = {
    "Failed to allocate memory": NO_MEMORY,  # the arena: the device is full, or the limit is reached
    "Available memory of": NO_MEMORY,  # the arena, when it is smaller than what is requested
    "out of memory": NO_MEMORY,  # CUDA failure 2, TensorRT
    "cudaMallocFromPoolAsync failed": NO_MEMORY,
    "_ALLOC_FAILED": NO_MEMORY,  # cuBLAS, cuDNN, cuFFT
    "provide all the dynamic shape inputs": NO_PROFILE,
}
NAMES: dict[Device, str] = {"cuda": "CUDA", "tensorrt": "TensorRT"}
REQUIRED: dict[Device, str] = {"cuda": CUDA, "tensorrt": TENSORRT}
REMEDIES: dict[Device, str] = {
    "cuda": "Install percept-serve[cuda] and a driver for it, or set PERCEPT_DEVICE=cpu",
    "tensorrt": "Install percept-serve[tensorrt] and a driver for it, or set PERCEPT_DEVICE=cuda or cpu",
}
NVIDIA_NODES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))

# One Conv, x [1,1,3,3] with a kernel of ones → y [1,1,1,1]; `tests/test_session.py` builds it anew and compares.
CANARY = base64.b64decode(
    "CAg6iAEKDwoBeAoBdxIBeSIEQ29udhIGY2FuYXJ5KjMIAQgBCAMIAxABQgF3SiQAAIA/AACAPwAAgD8AAIA/AACAPwAAgD8A"
    "AIA/AACAPwAAgD9aGwoBeBIWChQIARIQCgIIAQoCCAEKAggDCgIIA2IbCgF5EhYKFAgBEhAKAggBCgIIAQoCCAEKAggBQgQK"
    "ABAR"
)


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph: its element type as ONNX Runtime writes it, and its shape.

    A symbolic dimension is a string or None.
    """

    type: str
    shape: tuple[int | str | None, ...]


class Session:
    """One loaded graph. `run` may be called from several threads at once."""

    def __init__(
        self,
        file: Path | bytes,
        device: Device = "cpu",
        threads: int = 1,
        quiet: bool = False,
        alone: bool = False,
        tuning: GpuOptions = DEFAULT_GPU_OPTIONS,
    ) -> None:
        """Load a graph, its external weights looked up beside it.

        `threads` is the number that one run may use inside an operator, `alone` says that their cores are its own then;
        `quiet` keeps ONNX Runtime from printing the errors that it raises too. Raises `BundleError` where ONNX Runtime
        refuses the graph, `DeviceError` where it did not take the device or cannot keep its engines.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        for key, value in (ALONE if alone else SHARED).items() if threads > 1 else ():
            options.add_session_config_entry(key, value)
        if device == "cpu":
            options.add_session_config_entry("session.use_env_allocators", "1")
        options.log_severity_level = FATAL if quiet else ERROR
        wanted = execution_providers(device, tuning)
        if device == "tensorrt" and tuning.engines:
            _make(tuning.engines)
        try:
            # By default it would print an error, take other providers, and go on: here when it loads, and in a run.
            self._session = ort.InferenceSession(
                file if isinstance(file, bytes) else str(file), options, wanted, enable_fallback=0
            )
        except Exception as error:  # its errors share no base class
            raise BundleError(f"ONNX Runtime refuses the graph: {_reason(error)}") from error
        if missing := {name for name, _ in wanted} - set(self._session.get_providers()):
            raise DeviceError(f"ONNX Runtime did not load {' and '.join(sorted(missing))}, which was asked for")
        self._bound = device != "cpu"
        self.inputs = {p.name: TensorSpec(p.type, tuple(p.shape)) for p in self._session.get_inputs()}
        self.outputs = {p.name: TensorSpec(p.type, tuple(p.shape)) for p in self._session.get_outputs()}

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Arrays:
        """The named outputs for the given inputs; the whole graph runs whichever are named.

        Raises `InferenceError` where ONNX Runtime fails.
        """
        try:
            if self._bound:
                arrays = self._bind(feeds, outputs, "cuda")
            else:
                arrays = self._session.run(list(outputs), dict(feeds))
        except Exception as error:  # its errors share no base class
            raise InferenceError(f"ONNX Runtime failed: {_reason(error)}") from error
        return dict(zip(outputs, arrays, strict=True))

    def _bind(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str], place: str) -> list[NDArray[Any]]:
        """The same with inputs and outputs bound: each crosses to the device or back once, and no other output does.

        What stays on the device until the run is over is copied from there into NumPy, without a copy in between.
        """
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name in outputs:
            binding.bind_output(name, place)
        self._session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())


def resolve_device(wish: Literal["auto", "cpu", "cuda", "tensorrt"]) -> Device:
    """The device to use: `auto` takes CUDA where a card is present and working, and says so where it is not.

    Raises `DeviceError` with what to do where CUDA or TensorRT was asked for by name and does not work.
    """
    if wish == "cpu" or (wish == "auto" and not any(node.exists() for node in NVIDIA_NODES)):
        return "cpu"
    device: Device = "cuda" if wish == "auto" else wish
    reason = _fault(device)
    if reason is None:
        return device
    if wish != "auto":
        raise DeviceError(f"{NAMES[device]} was asked for and does not work: {reason.rstrip('.')}. {REMEDIES[device]}")
    log.warning("a CUDA device is present but does not work (%s); serving on the CPU", reason)
    return "cpu"


def _fault(device: Device) -> str | None:
    """Why a device does not work, or None if the canary convolution gave the right answer on it."""
    if REQUIRED[device] not in ort.get_available_providers():
        return f"this build of ONNX Runtime has no {NAMES[device]}"
    ort.preload_dlls()
    if device == "tensorrt":
        with suppress(ImportError, OSError):  # its libraries may be there without its Python package
            import_module("tensorrt")  # loads its libraries, which `preload_dlls` does not
    try:
        canary = Session(CANARY, device).run({"x": np.ones((1, 1, 3, 3), np.float32)}, ["y"])
    except (BundleError, DeviceError, InferenceError) as error:
        return str(error)
    return None if canary["y"].item() == 9 else "a convolution gave a wrong answer"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(f"PERCEPT_ENGINE_CACHE: {folder} cannot be made: {error.strerror}") from error


def _reason(error: Exception) -> str:
    """The first line of an error, and what can be done about it if that is known."""
    text = str(error).strip() or type(error).__name__
    advice = next((advice for mark, advice in ADVICE.items() if mark.lower() in text.lower()), None)
    return text.splitlines()[0] + (f" ({advice})" if advice else "")
