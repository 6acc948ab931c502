"""What ONNX Runtime is told about a device: which execution providers, in which order, with which options, as data.

In comes a device and how it is to be used, out goes the list that a session takes. Whether any of it works is not known
here. The options are those of onnxruntime.ai/docs/execution-providers, the pages on CUDA and TensorRT.
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
    """How a GPU computes one graph; to the CPU none of it means anything.

    `tf32`: products of float32 may be rounded to TF32. `half`: the graph computes in float16. `memory_bytes` bounds the
    arena of a session. `engines` is the folder for TensorRT's engines of this graph and no other, `shapes` the least
    and the greatest shape of each input that it is built for.
    """

    tf32: bool = False
    half: bool = False
    memory_bytes: int | None = None
    engines: Path | None = None
    shapes: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)


DEFAULT_GPU_OPTIONS = GpuOptions()


def execution_providers(device: Device, tuning: GpuOptions = DEFAULT_GPU_OPTIONS) -> list[tuple[str, ProviderOptions]]:
    """The execution providers for a device, the preferred one first; every one of them is needed."""
    if device == "cpu":
        return [(CPU, {})]
    # What TensorRT cannot take is CUDA's.
    return ([(TENSORRT, _tensorrt(tuning))] if device == "tensorrt" else []) + [(CUDA, _cuda(tuning))]


def options_for_trunk(
    tuning: GpuOptions, half: bool, image: Shape, sizes: Sequence[int], files: Mapping[str, str]
) -> GpuOptions:
    """The tuning of the graph that takes `pixels` [N,*image], in batches of these sizes.

    Its engines get a folder of their own below the given one, by the hashes of its `files`: TensorRT tells engines
    apart by the names in a graph and not by its weights, and would take those of another network of the same kind.
    """
    own = sha256(repr(sorted(files.items())).encode()).hexdigest()[:32]
    return replace(
        tuning,
        half=half,
        engines=tuning.engines / own if tuning.engines else None,
        shapes={"pixels": ((1, *image), (max(sizes), *image))} if sizes else {},
    )


def _cuda(tuning: GpuOptions) -> ProviderOptions:
    options = {
        "cudnn_conv_algo_search": "HEURISTIC",  # plans a convolution quickly and well
        # TF32 costs three digits of every gradient. Without it ONNX Runtime shuns every plan with tensor cores, those
        # for float16 too, which has no TF32 and is there for them.
        "use_tf32": "1" if tuning.tf32 or tuning.half else "0",
        # Some plans want gigabytes of scratch memory. float16 finds its tensor cores by it, float32 gains little.
        "cudnn_conv_use_max_workspace": "1" if tuning.half or tuning.memory_bytes is None else "0",
    }
    if tuning.memory_bytes is not None:
        # By default the arena grows by powers of two: it would meet the limit with half of it unused.
        options |= {"gpu_mem_limit": str(tuning.memory_bytes), "arena_extend_strategy": "kSameAsRequested"}
    return options


def _tensorrt(tuning: GpuOptions) -> ProviderOptions:
    options = {"trt_fp16_enable": str(tuning.half)}  # "True" or "False": it takes no 1 and 0
    if tuning.memory_bytes is not None:
        options["trt_max_workspace_size"] = str(tuning.memory_bytes)
    if tuning.engines is not None:
        options |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(tuning.engines)}
    if tuning.shapes:
        # One engine for all batches, best at the greatest. Otherwise each new shape would build another, for minutes.
        least = {name: shapes[0] for name, shapes in tuning.shapes.items()}
        greatest = {name: shapes[1] for name, shapes in tuning.shapes.items()}
        options["trt_profile_min_shapes"] = _profile(least)
        options["trt_profile_opt_shapes"] = options["trt_profile_max_shapes"] = _profile(greatest)
    return options


def _profile(shapes: Mapping[str, Shape]) -> str:
    """`pixels:1x224x224x3,other:1x5`."""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
