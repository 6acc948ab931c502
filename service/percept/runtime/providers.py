"""The execution providers of ONNX Runtime for a device, with their options, as plain data.

A device and the options for a GPU come in; the list that a session takes leaves. This module does not know whether a
provider works. The options are documented in onnxruntime.ai/docs/execution-providers, on the pages of CUDA and
TensorRT.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

Device = Literal["cpu", "cuda", "tensorrt"]
Shape = tuple[int, ...]
ProviderOptions = dict[str, str]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@dataclass(frozen=True)
class GpuOptions:
    """How a GPU computes one graph; a CPU ignores all of it.

    `tf32`: the factors of float32 products may be rounded to TF32. `half`: the graph computes in float16.
    `memory_bytes` bounds the memory arena of a session. `engines` is the folder for TensorRT's engines of this graph
    only; `shapes` are the smallest and the largest shape of each input that an engine is built for.
    """

    tf32: bool = False
    half: bool = False
    memory_bytes: int | None = None
    engines: Path | None = None
    shapes: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)


DEFAULT_GPU_OPTIONS = GpuOptions()


def execution_providers(device: Device, options: GpuOptions = DEFAULT_GPU_OPTIONS) -> list[tuple[str, ProviderOptions]]:
    """The execution providers for a device, the preferred one first; a session must load all of them."""
    if device == "cpu":
        return [(CPU, {})]
    # CUDA runs the operators that TensorRT does not support.
    return ([(TENSORRT, _tensorrt_options(options))] if device == "tensorrt" else []) + [(CUDA, _cuda_options(options))]


def options_for_trunk(
    options: GpuOptions, half: bool, image_shape: Shape, batch_sizes: Sequence[int], files: Mapping[str, str]
) -> GpuOptions:
    """The options for a graph that takes `pixels` [N,*image_shape] in batches of these sizes.

    The engines of the graph get a subfolder that is named by the hashes of the bundle's `files`: TensorRT identifies an
    engine by the names in the graph and not by the weights, and would use the engine of another network of the same
    architecture.
    """
    subfolder = sha256(repr(sorted(files.items())).encode()).hexdigest()[:32]
    return replace(
        options,
        half=half,
        engines=options.engines / subfolder if options.engines else None,
        shapes={"pixels": ((1, *image_shape), (max(batch_sizes), *image_shape))} if batch_sizes else {},
    )


def _cuda_options(options: GpuOptions) -> ProviderOptions:
    provider_options = {
        "cudnn_conv_algo_search": "HEURISTIC",  # selects a convolution plan quickly and well
        # TF32 costs three digits of every gradient. With it off, ONNX Runtime avoids every plan with tensor cores, also
        # those for float16, which need them and are not affected by TF32.
        "use_tf32": "1" if options.tf32 or options.half else "0",
        # Some plans need gigabytes of scratch memory. float16 reaches its tensor cores with it, float32 gains little.
        "cudnn_conv_use_max_workspace": "1" if options.half or options.memory_bytes is None else "0",
    }
    if options.memory_bytes is not None:
        # By default the arena grows by powers of two: it would reach the limit with half of it unused.
        provider_options |= {"gpu_mem_limit": str(options.memory_bytes), "arena_extend_strategy": "kSameAsRequested"}
    return provider_options


def _tensorrt_options(options: GpuOptions) -> ProviderOptions:
    provider_options = {"trt_fp16_enable": str(options.half)}  # "True" or "False": it does not accept 1 and 0
    if options.memory_bytes is not None:
        provider_options["trt_max_workspace_size"] = str(options.memory_bytes)
    if options.engines is not None:
        provider_options |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(options.engines)}
    if options.shapes:
        # One engine for all batches, tuned for the largest. Otherwise each new shape would build another, for minutes.
        smallest = {name: shapes[0] for name, shapes in options.shapes.items()}
        largest = {name: shapes[1] for name, shapes in options.shapes.items()}
        provider_options["trt_profile_min_shapes"] = _profile(smallest)
        provider_options["trt_profile_opt_shapes"] = provider_options["trt_profile_max_shapes"] = _profile(largest)
    return provider_options


def _profile(shapes: Mapping[str, Shape]) -> str:
    """`pixels:1x224x224x3,other:1x5`."""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
