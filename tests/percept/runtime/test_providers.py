"""The execution providers and their options for every device; no device is needed."""

from pathlib import Path
from typing import Any

import pytest

from percept.runtime.providers import CPU, CUDA, TENSORRT, Device, GpuOptions, execution_providers, options_for_trunk

PIXELS = {"pixels": ((1, 32, 24, 3), (16, 32, 24, 3))}


def options(device: Device, provider: str, **gpu_options: Any) -> dict[str, str]:
    return dict(execution_providers(device, GpuOptions(**gpu_options)))[provider]


def test_every_device_has_its_providers_in_order() -> None:
    """A GPU has no CPU provider: that would be a silent fallback."""
    found = {device: [name for name, _ in execution_providers(device)] for device in ("cpu", "cuda", "tensorrt")}
    assert found == {"cpu": [CPU], "cuda": [CUDA], "tensorrt": [TENSORRT, CUDA]}


def test_cpu_has_no_options() -> None:
    assert execution_providers("cpu", GpuOptions(tf32=True, memory_bytes=1, engines=Path("x"))) == [(CPU, {})]


def test_cuda_uses_the_heuristic_without_tf32() -> None:
    assert options("cuda", CUDA) == {
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        "cudnn_conv_use_max_workspace": "1",
    }


def test_tf32_is_enabled_where_allowed() -> None:
    assert options("cuda", CUDA, tf32=True)["use_tf32"] == "1"


def test_float16_keeps_its_tensor_cores() -> None:
    """They need `use_tf32`, and scratch memory also where memory is limited."""
    found = options("cuda", CUDA, half=True, memory_bytes=2**30)
    assert (found["use_tf32"], found["cudnn_conv_use_max_workspace"]) == ("1", "1")


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_memory_limit_bounds_the_arena(device: Device) -> None:
    found = options(device, CUDA, memory_bytes=2**30)
    assert found["gpu_mem_limit"] == "1073741824"
    assert found["arena_extend_strategy"] == "kSameAsRequested"
    assert found["cudnn_conv_use_max_workspace"] == "0"
    assert "gpu_mem_limit" not in options(device, CUDA)


def test_memory_limit_bounds_the_tensorrt_workspace() -> None:
    assert options("tensorrt", TENSORRT, memory_bytes=2**30)["trt_max_workspace_size"] == "1073741824"
    assert "trt_max_workspace_size" not in options("tensorrt", TENSORRT)


def test_tensorrt_uses_float16_for_float16_trunks() -> None:
    """TensorRT accepts the words True and False only."""
    assert options("tensorrt", TENSORRT)["trt_fp16_enable"] == "False"
    assert options("tensorrt", TENSORRT, half=True)["trt_fp16_enable"] == "True"


def test_tensorrt_builds_one_engine_for_all_batch_sizes() -> None:
    found = options("tensorrt", TENSORRT, shapes=PIXELS | {"other": ((1, 5), (16, 5))})
    assert found["trt_profile_min_shapes"] == "pixels:1x32x24x3,other:1x5"
    assert found["trt_profile_opt_shapes"] == "pixels:16x32x24x3,other:16x5"
    assert found["trt_profile_max_shapes"] == "pixels:16x32x24x3,other:16x5"
    assert "trt_profile_min_shapes" not in options("tensorrt", TENSORRT)


def test_engines_are_cached_only_with_a_folder() -> None:
    found = options("tensorrt", TENSORRT, engines=Path("/engines"))
    assert (found["trt_engine_cache_enable"], found["trt_engine_cache_path"]) == ("True", "/engines")
    assert "trt_engine_cache_enable" not in options("tensorrt", TENSORRT)


def test_every_option_is_a_string() -> None:
    gpu_options = GpuOptions(True, True, 2**30, Path("/engines"), PIXELS)
    for _, found in execution_providers("tensorrt", gpu_options):
        assert all(isinstance(value, str) for value in found.values())


def test_trunk_options_have_its_precision_and_batch_sizes() -> None:
    found = options_for_trunk(GpuOptions(tf32=True, memory_bytes=5), True, (32, 24, 3), (1, 2, 16), {})
    assert found == GpuOptions(tf32=True, half=True, memory_bytes=5, shapes=PIXELS)
    assert options_for_trunk(GpuOptions(), False, (32, 24, 3), (), {}) == GpuOptions()


def test_engines_of_other_weights_have_another_folder() -> None:
    """TensorRT identifies an engine by the names in its graph, which bundles of one architecture share."""

    def folder(**files: str) -> Path | None:
        return options_for_trunk(GpuOptions(engines=Path("/engines")), False, (8, 8, 3), (1,), files).engines

    one = folder(graph="a", weights="b")
    assert one is not None
    assert one.parent == Path("/engines")
    assert one == folder(weights="b", graph="a")
    assert one != folder(graph="a", weights="c")
