"""What ONNX Runtime is told about a device, as data: there need be none."""

from pathlib import Path

import pytest

from percept.runtime.providers import CPU, CUDA, TENSORRT, Tuning, for_trunk, providers

PIXELS = {"pixels": ((1, 32, 24, 3), (16, 32, 24, 3))}


def options(device, provider: str, **tuning) -> dict[str, str]:
    return dict(providers(device, Tuning(**tuning)))[provider]


def test_every_device_has_its_providers_in_order_and_no_other() -> None:
    """The CPU among those of a GPU would be a fall back that nobody asked for."""
    found = {device: [name for name, _ in providers(device)] for device in ("cpu", "cuda", "tensorrt")}
    assert found == {"cpu": [CPU], "cuda": [CUDA], "tensorrt": [TENSORRT, CUDA]}


def test_the_cpu_has_no_options() -> None:
    assert providers("cpu", Tuning(tf32=True, memory_bytes=1, engines=Path("x"))) == [(CPU, {})]


def test_cuda_plans_by_heuristic_without_tf32() -> None:
    assert options("cuda", CUDA) == {
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        "cudnn_conv_use_max_workspace": "1",
    }


def test_tf32_is_used_where_it_is_allowed() -> None:
    assert options("cuda", CUDA, tf32=True)["use_tf32"] == "1"


def test_float16_keeps_its_tensor_cores() -> None:
    """ONNX Runtime would take them from it with TF32, and where memory is limited with the scratch memory."""
    found = options("cuda", CUDA, half=True, memory_bytes=2**30)
    assert (found["use_tf32"], found["cudnn_conv_use_max_workspace"]) == ("1", "1")


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_limit_of_memory_is_one_of_the_arena(device) -> None:
    found = options(device, CUDA, memory_bytes=2**30)
    assert found["gpu_mem_limit"] == "1073741824"
    assert found["arena_extend_strategy"] == "kSameAsRequested"
    assert found["cudnn_conv_use_max_workspace"] == "0"
    assert "gpu_mem_limit" not in options(device, CUDA)


def test_a_limit_of_memory_is_one_of_the_workspace_of_tensorrt() -> None:
    assert options("tensorrt", TENSORRT, memory_bytes=2**30)["trt_max_workspace_size"] == "1073741824"
    assert "trt_max_workspace_size" not in options("tensorrt", TENSORRT)


def test_tensorrt_computes_in_float16_where_the_trunk_does() -> None:
    """It takes the words True and False, and no numbers."""
    assert options("tensorrt", TENSORRT)["trt_fp16_enable"] == "False"
    assert options("tensorrt", TENSORRT, half=True)["trt_fp16_enable"] == "True"


def test_tensorrt_builds_one_engine_for_all_buckets_best_at_the_greatest() -> None:
    found = options("tensorrt", TENSORRT, shapes=PIXELS | {"other": ((1, 5), (16, 5))})
    assert found["trt_profile_min_shapes"] == "pixels:1x32x24x3,other:1x5"
    assert found["trt_profile_opt_shapes"] == "pixels:16x32x24x3,other:16x5"
    assert found["trt_profile_max_shapes"] == "pixels:16x32x24x3,other:16x5"
    assert "trt_profile_min_shapes" not in options("tensorrt", TENSORRT)


def test_engines_are_kept_only_where_a_folder_is_named() -> None:
    found = options("tensorrt", TENSORRT, engines=Path("/engines"))
    assert (found["trt_engine_cache_enable"], found["trt_engine_cache_path"]) == ("True", "/engines")
    assert "trt_engine_cache_enable" not in options("tensorrt", TENSORRT)


def test_every_option_is_a_string() -> None:
    tuning = Tuning(True, True, 2**30, Path("/engines"), PIXELS)
    for _, found in providers("tensorrt", tuning):
        assert all(isinstance(value, str) for value in found.values())


def test_a_trunk_has_its_precision_and_its_batches() -> None:
    found = for_trunk(Tuning(tf32=True, memory_bytes=5), True, (32, 24, 3), (1, 2, 16), {})
    assert found == Tuning(tf32=True, half=True, memory_bytes=5, shapes=PIXELS)
    assert for_trunk(Tuning(), False, (32, 24, 3), (), {}) == Tuning()


def test_engines_of_other_weights_are_elsewhere() -> None:
    """TensorRT knows an engine by the names in its graph, which two bundles of one architecture share."""

    def folder(**files: str) -> Path | None:
        return for_trunk(Tuning(engines=Path("/engines")), False, (8, 8, 3), (1,), files).engines

    one = folder(graph="a", weights="b")
    assert one is not None
    assert one.parent == Path("/engines")
    assert one == folder(weights="b", graph="a")
    assert one != folder(graph="a", weights="c")
