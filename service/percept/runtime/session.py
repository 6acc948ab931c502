"""The only module that imports ONNX Runtime: a graph on disk becomes a `Session`, which maps arrays to arrays.

A GPU that is configured by name and does not work is an error, never a silent fallback to the CPU. ONNX Runtime may
list a provider that fails to load, so `resolve_device` runs a small convolution first.
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
from percept.errors import BundleError, DeviceError, InferenceError, first_line
from percept.runtime.providers import CUDA, DEFAULT_GPU_OPTIONS, TENSORRT, execution_providers
from percept.runtime.providers import Device as Device  # the export toolchain imports these two from here
from percept.runtime.providers import GpuOptions as GpuOptions

process.disable_onnxruntime_telemetry()
import onnxruntime as ort  # noqa: E402  # reads the variable when it is imported

Arrays = dict[str, NDArray[Any]]

log = logging.getLogger(__name__)

ORT_VERSION: str = ort.__version__

SAME_AS_REQUESTED = 1  # the arena grows by the requested size, not to the next power of two


def _configure_process() -> None:
    """Configure ONNX Runtime once for the whole process: no telemetry, and one CPU arena for all sessions.

    With an arena of its own, each session keeps its peak memory, rounded up to a power of two (ResNet-50 loaded twice:
    80 MB less with a shared arena, SqueezeNet 26 MB).
    """
    ort.disable_telemetry_events()  # the environment variable has no effect on Windows
    ort.create_and_register_allocator(
        ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT),
        ort.OrtArenaCfg({"arena_extend_strategy": SAME_AS_REQUESTED}),
    )


_configure_process()

# How the threads of one run wait for each other. With concurrent runs they sleep and take their work in small pieces,
# so that the runs slow each other little. In a run that is alone on the cores they spin until it ends.
SLEEPING = {"session.intra_op.allow_spinning": "0", "session.dynamic_block_base": "8"}
SPINNING = {"session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "1"}

# `Pad_Fusion` of ONNX Runtime 1.31 merges zeros around the input of a MaxPool into the padding of the MaxPool, which is
# -inf: wrong where values are negative (ResNetV2-BiT: logits 15 % off).
FAULTY_OPTIMIZERS = ("Pad_Fusion",)
DISABLED_OPTIMIZERS = "optimization.disable_specified_optimizers"  # names, separated by semicolons
ERROR, FATAL = 3, 4  # ONNX Runtime's log levels

NO_MEMORY = "out of memory: set a smaller PERCEPT_MAX_BATCH, or a larger PERCEPT_GPU_MEMORY_BYTES where one is set"
NO_PROFILE = "TensorRT cannot run this graph as a whole: set PERCEPT_DEVICE=cuda"
# Part of the message of ONNX Runtime, CUDA or TensorRT → the remedy for the error.
REMEDY_OF_ERROR = {
    "Failed to allocate memory": NO_MEMORY,  # the arena: the device is full, or the limit is reached
    "Available memory of": NO_MEMORY,  # the arena, when it is smaller than the requested size
    "out of memory": NO_MEMORY,  # CUDA failure 2, TensorRT
    "cudaMallocFromPoolAsync failed": NO_MEMORY,
    "_ALLOC_FAILED": NO_MEMORY,  # cuBLAS, cuDNN, cuFFT
    "provide all the dynamic shape inputs": NO_PROFILE,
}
DEVICE_NAMES: dict[Device, str] = {"cuda": "CUDA", "tensorrt": "TensorRT"}
REQUIRED_PROVIDERS: dict[Device, str] = {"cuda": CUDA, "tensorrt": TENSORRT}
REMEDY_OF_DEVICE: dict[Device, str] = {
    "cuda": "Install percept-serve[cuda] and an NVIDIA driver for it, or set PERCEPT_DEVICE=cpu",
    "tensorrt": "Install percept-serve[tensorrt] and an NVIDIA driver for it, or set PERCEPT_DEVICE=cuda or cpu",
}
NVIDIA_NODES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # one of them exists where there is a driver

# One Conv: x [1,1,3,3] with a kernel of ones → y [1,1,1,1]. `test_session.py` builds it again and compares.
TEST_GRAPH = base64.b64decode(
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
    """A loaded graph. Several threads may call `run` at once."""

    def __init__(
        self,
        file: Path | bytes,
        device: Device = "cpu",
        threads: int = 1,
        quiet: bool = False,
        spin: bool = False,
        gpu_options: GpuOptions = DEFAULT_GPU_OPTIONS,
        optimize: bool = True,
    ) -> None:
        """Load a graph; external weights are looked up beside its file.

        `threads` is the number of threads that one run uses inside an operator; with `spin` they wait for each other
        without sleeping. `quiet` stops ONNX Runtime from printing the errors that it also raises. Without `optimize`
        the graph is run as it was written, slower: verification compares both.

        Raises `BundleError` if ONNX Runtime refuses the graph, and `DeviceError` if it did not load a provider or the
        folder for its engines cannot be created.
        """
        providers = execution_providers(device, gpu_options)
        if device == "tensorrt" and gpu_options.engines:
            _create_folder(gpu_options.engines)
        source = file if isinstance(file, bytes) else str(file)
        try:
            # With fallback, ONNX Runtime would print an error and continue on other providers, at load and in each run.
            options = _session_options(device, threads, quiet, spin, optimize)
            self._session = ort.InferenceSession(source, options, providers, enable_fallback=0)
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise BundleError(f"ONNX Runtime refuses the graph: {_describe(error)}") from error
        if missing := {name for name, _ in providers} - set(self._session.get_providers()):
            raise DeviceError(f"ONNX Runtime did not load {' and '.join(sorted(missing))}")
        self._bound = device != "cpu"
        self.inputs = {arg.name: TensorSpec(arg.type, tuple(arg.shape)) for arg in self._session.get_inputs()}
        self.outputs = {arg.name: TensorSpec(arg.type, tuple(arg.shape)) for arg in self._session.get_outputs()}

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Arrays:
        """The named outputs for the given inputs.

        ONNX Runtime runs the whole graph, whichever outputs are named. Raises `InferenceError` if the run fails.
        """
        try:
            if self._bound:
                arrays = self._run_bound(feeds, outputs, "cuda")
            else:
                arrays = self._session.run(list(outputs), dict(feeds))
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise InferenceError(f"ONNX Runtime failed: {_describe(error)}") from error
        return dict(zip(outputs, arrays, strict=True))

    def _run_bound(
        self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str], output_device: str
    ) -> list[NDArray[Any]]:
        """Run with IOBinding: inputs and named outputs are copied once, other outputs are not copied.

        Outputs stay on the device until the run is over, and are then copied directly into NumPy arrays.
        """
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name in outputs:
            binding.bind_output(name, output_device)
        self._session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())


def resolve_device(setting: Literal["auto", "cpu", "cuda", "tensorrt"]) -> Device:
    """The device to use: `auto` selects CUDA if a GPU is present and works, and logs a warning if it does not work.

    Raises `DeviceError` with the remedy if CUDA or TensorRT is set by name and does not work.
    """
    if setting == "cpu" or (setting == "auto" and not any(node.exists() for node in NVIDIA_NODES)):
        return "cpu"
    device: Device = "cuda" if setting == "auto" else setting
    reason = _unavailable_reason(device)
    if reason is None:
        return device
    if setting != "auto":
        raise DeviceError(f"{DEVICE_NAMES[device]} does not work: {reason.rstrip('.')}. {REMEDY_OF_DEVICE[device]}")
    log.warning("a CUDA device is present but does not work (%s); serving on the CPU", reason)
    return "cpu"


def merge_batch_norms(source: Path, target: Path) -> None:
    """Write a float32 graph with its batch norms merged into convolutions and its constants folded."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry(DISABLED_OPTIMIZERS, ";".join([*FAULTY_OPTIMIZERS, "ConstantSharing"]))
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(source), options, ["CPUExecutionProvider"])


def _session_options(device: Device, threads: int, quiet: bool, spin: bool, optimize: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.add_session_config_entry(DISABLED_OPTIMIZERS, ";".join(FAULTY_OPTIMIZERS))
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if threads > 1:
        for key, value in (SPINNING if spin else SLEEPING).items():
            options.add_session_config_entry(key, value)
    if device == "cpu":
        options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = FATAL if quiet else ERROR
    return options


def _unavailable_reason(device: Device) -> str | None:
    """Why a device does not work, or None if the test convolution gave the right result on it."""
    if REQUIRED_PROVIDERS[device] not in ort.get_available_providers():
        return f"this build of ONNX Runtime has no {DEVICE_NAMES[device]}"
    ort.preload_dlls()
    if device == "tensorrt":
        with suppress(ImportError, OSError):  # its libraries may be installed without its Python package
            import_module("tensorrt")  # loads its libraries, which `preload_dlls` does not
    try:
        result = Session(TEST_GRAPH, device).run({"x": np.ones((1, 1, 3, 3), np.float32)}, ["y"])
    except (BundleError, DeviceError, InferenceError) as error:
        return str(error)
    return None if result["y"].item() == 9 else "a convolution gave a wrong result"


def _create_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(f"PERCEPT_ENGINE_CACHE: {folder} cannot be created: {error.strerror}") from error


def _describe(error: Exception) -> str:
    """The first line of an error, and the remedy if one is known."""
    text = str(error).lower()
    remedy = next((remedy for mark, remedy in REMEDY_OF_ERROR.items() if mark.lower() in text), None)
    return first_line(error) + (f" ({remedy})" if remedy else "")
