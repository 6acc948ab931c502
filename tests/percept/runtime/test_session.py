"""Sessions: graphs run on the configured device or fail with the reason and the remedy."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from percept.errors import BundleError, DeviceError, InferenceError
from percept.runtime import session
from percept.settings import BUILT_IN_BUNDLES
from tests.conftest import ROOT

LOAD_A_GRAPH = (
    "import sys, time; from percept.runtime.session import TEST_GRAPH, Session; Session(TEST_GRAPH); time.sleep(%d)"
)
# Without the variables of CI and pytest, under which ONNX Runtime's telemetry is silent by itself.
BARE_ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("CI", "PYTEST", "GITHUB", "ORT_"))}
WITHOUT_GPU = pytest.mark.skipif(
    any(node.exists() for node in session.NVIDIA_NODES), reason="this machine has an NVIDIA GPU"
)


def convolution() -> bytes:
    kernel = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "canary",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 1])],
        [kernel],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def test_device_check_runs_one_convolution() -> None:
    assert onnx.load_from_string(session.TEST_GRAPH) == onnx.load_from_string(convolution())
    found = session.Session(session.TEST_GRAPH).run({"x": np.ones((1, 1, 3, 3), np.float32)}, ["y"])
    assert found["y"].item() == 9


def test_onnx_runtime_telemetry_is_never_set_up(tmp_path: Path) -> None:
    """Its setup would create an identity of the device and a cache of events below the home folder."""
    command = [sys.executable, "-c", LOAD_A_GRAPH % 0]
    subprocess.run(command, check=True, cwd=ROOT, env={**BARE_ENVIRONMENT, "HOME": str(tmp_path)})
    assert not list(tmp_path.rglob("*onnxruntime*"))


@pytest.mark.prove
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_onnx_runtime_opens_no_connection(tmp_path: Path) -> None:
    """Its telemetry would, within ten seconds, also where events are disabled after the import."""
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=connect", "-o", str(trace), sys.executable, "-c", LOAD_A_GRAPH % 16]
    subprocess.run(command, check=True, cwd=ROOT, env=BARE_ENVIRONMENT)
    assert "AF_INET" not in trace.read_text()


def test_session_lists_inputs_and_outputs() -> None:
    opened = session.Session(convolution())
    assert opened.inputs == {"x": session.TensorSpec("tensor(float)", (1, 1, 3, 3))}
    assert opened.outputs == {"y": session.TensorSpec("tensor(float)", (1, 1, 1, 1))}


def zeros_before_max_pooling() -> onnx.ModelProto:
    """MaxPool of an image that is padded with zeros; of negative values it is 0 where a window reaches the padding."""
    graph = helper.make_graph(
        [
            helper.make_node("Pad", ["x", "pads"], ["padded"]),
            helper.make_node("MaxPool", ["padded"], ["y"], kernel_shape=[3, 3], strides=[2, 2]),
        ],
        "padded",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
        [numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize("optimize", [True, False])
def test_zeros_before_max_pooling_are_no_infinities(optimize: bool) -> None:
    """ONNX Runtime's `Pad_Fusion` takes the padding for that of the MaxPool and gives -1 everywhere."""
    opened = session.Session(zeros_before_max_pooling().SerializeToString(), optimize=optimize)
    found = opened.run({"x": np.full((1, 1, 4, 4), -1, np.float32)}, ["y"])["y"]
    assert found.tolist() == [[[[0, 0], [0, -1]]]]


def test_disabled_optimizer_is_faulty_in_this_version() -> None:
    """Enable it again when this fails."""
    x = {"x": np.full((1, 1, 4, 4), -1, np.float32)}
    bare = onnxruntime.InferenceSession(zeros_before_max_pooling().SerializeToString())
    assert (bare.run(None, x)[0] == -1).all()


def test_merging_batch_norms_keeps_zeros_before_max_pooling(tmp_path: Path) -> None:
    onnx.save(zeros_before_max_pooling(), tmp_path / "source.onnx")
    session.merge_batch_norms(tmp_path / "source.onnx", tmp_path / "merged.onnx")
    merged = onnx.load(tmp_path / "merged.onnx")
    assert [node.op_type for node in merged.graph.node] == ["Pad", "MaxPool"]


def test_wrong_input_is_an_inference_error() -> None:
    with pytest.raises(InferenceError, match="ONNX Runtime failed"):
        session.Session(convolution()).run({"x": np.ones((1, 1, 2, 2), np.float32)}, ["y"])


def test_broken_graph_is_a_bundle_error() -> None:
    with pytest.raises(BundleError, match="ONNX Runtime refuses the graph"):
        session.Session(b"broken")


def test_cpu_always_works() -> None:
    assert session.resolve_device("cpu") == "cpu"


@WITHOUT_GPU
def test_cuda_without_a_gpu_is_an_error_and_auto_the_cpu() -> None:
    with pytest.raises(DeviceError, match="set PERCEPT_DEVICE=cpu"):
        session.resolve_device("cuda")
    assert session.resolve_device("auto") == "cpu"


def test_auto_falls_back_from_a_broken_gpu_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(session, "NVIDIA_NODES", (tmp_path,))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert session.resolve_device("auto") == "cpu"
    assert "serving on the CPU" in caplog.text


@WITHOUT_GPU
def test_missing_tensorrt_is_an_error_with_the_remedy(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DeviceError, match=r"TensorRT does not work: .* Install percept-serve\[tensorrt\]") as caught:
        session.resolve_device("tensorrt")
    assert "PERCEPT_DEVICE=cuda" in str(caught.value)
    assert "Falling back" not in capfd.readouterr().out


def test_build_without_tensorrt_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(DeviceError, match="this build of ONNX Runtime has no TensorRT"):
        session.resolve_device("tensorrt")


def test_auto_never_selects_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checked: list[str] = []
    monkeypatch.setattr(session, "NVIDIA_NODES", (tmp_path,))
    monkeypatch.setattr(session, "_unavailable_reason", checked.append)
    assert session.resolve_device("auto") == "cuda"
    assert checked == ["cuda"]


@WITHOUT_GPU
def test_missing_device_is_never_replaced_by_another() -> None:
    with pytest.raises(DeviceError, match="did not load CUDAExecutionProvider"):
        session.Session(convolution(), "cuda")
    with pytest.raises(BundleError, match="TensorRT"):
        session.Session(convolution(), "tensorrt")


def test_engine_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    options = session.GpuOptions(engines=tmp_path / "file" / "engines")
    with pytest.raises(DeviceError, match=r"PERCEPT_ENGINE_CACHE: .*engines cannot be created"):
        session.Session(convolution(), "tensorrt", gpu_options=options)
    assert session.Session(convolution(), gpu_options=options).outputs


def load_trunk() -> tuple[session.Session, dict[str, np.ndarray]]:
    """A real trunk with several outputs, and three images for it."""
    opened = session.Session(BUILT_IN_BUNDLES / "cifar10" / "1" / "trunk.onnx")
    return opened, {"pixels": np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)}


def test_io_binding_gives_bitwise_equal_outputs() -> None:
    """The named outputs, in the order of their names in the call."""
    opened, feeds = load_trunk()
    for outputs in (sorted(opened.outputs), sorted(opened.outputs, reverse=True), ["logits"]):
        found = opened._run_bound(feeds, outputs, "cpu")
        plain = opened.run(feeds, outputs)
        assert len(found) == len(outputs)
        for array, expected in zip(found, plain.values(), strict=True):
            assert isinstance(array, np.ndarray)
            np.testing.assert_array_equal(array, expected, strict=True)


def test_io_binding_accepts_inputs_that_are_not_contiguous() -> None:
    opened, feeds = load_trunk()
    flipped = {"pixels": feeds["pixels"][:, ::-1, :, ::-1]}
    (found,) = opened._run_bound(flipped, ["logits"], "cpu")
    np.testing.assert_array_equal(found, opened.run(flipped, ["logits"])["logits"])


def test_parallel_runs_with_io_binding_are_independent() -> None:
    opened, feeds = load_trunk()
    images = [feeds["pixels"][k : k + 1] for k in (0, 1, 2)] * 8
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: opened._run_bound({"pixels": image}, ["logits"], "cpu")[0], images))
    for image, logits in zip(images, found, strict=True):
        np.testing.assert_array_equal(logits, opened.run({"pixels": image}, ["logits"])["logits"])


def test_out_of_memory_states_the_remedy() -> None:
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        "huge",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("shape", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    opened = session.Session(model.SerializeToString(), quiet=True)
    with pytest.raises(InferenceError, match=r"Failed to allocate memory .*smaller PERCEPT_MAX_BATCH"):
        opened.run({"x": np.ones(1, np.float32), "shape": np.array([2**60])}, ["y"])


# Messages of ONNX Runtime 1.31, CUDA and TensorRT; those from issue reports are shortened.
MESSAGES = {
    "Failed to allocate memory": "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer "
    "of size 643840",
    "Available memory of": "bfc_arena.cc Available memory of 1024 is smaller than requested bytes of 2048",
    "out of memory": "[ONNXRuntimeError] : 1 : FAIL : \ncuda_call.cc:121 CUDA failure 2: out of memory ; GPU=0",
    "cudaMallocFromPoolAsync failed": "CudaMempoolArena::Alloc: cudaMallocFromPoolAsync failed: 2",
    "_ALLOC_FAILED": "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cublasCreate(&handle)",
    "provide all the dynamic shape inputs": "EP_FAIL : User needs to provide all the dynamic shape inputs with "
    "associated profiles if they want to explicitly set profiles through provider options.",
}


def test_every_remedy_is_given_for_a_real_message() -> None:
    assert set(MESSAGES) == set(session.REMEDY_OF_ERROR)
    for mark, text in MESSAGES.items():
        reason = session._describe(RuntimeError(text))
        assert "\n" not in reason
        assert reason.endswith(f"({session.REMEDY_OF_ERROR[mark]})")


def test_error_without_a_remedy_is_given_alone() -> None:
    assert session._describe(RuntimeError("Got invalid dimensions\nfor input")) == "Got invalid dimensions"
    assert session._describe(ValueError()) == "ValueError"
