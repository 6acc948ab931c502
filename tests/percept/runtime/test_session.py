"""ONNX Runtime behind its wall: devices fail loudly, graphs by name."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from percept.errors import BundleError, DeviceError, InferenceError
from percept.runtime import session
from percept.settings import BUILT_IN
from tests.conftest import ROOT

WITHOUT_CARD = pytest.mark.skipif(
    any(node.exists() for node in session.NVIDIA_NODES), reason="this machine has a CUDA device"
)


def canary() -> bytes:
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


def test_the_canary_is_one_convolution() -> None:
    assert onnx.load_from_string(session.CANARY) == onnx.load_from_string(canary())
    found = session.Session(session.CANARY).run({"x": np.ones((1, 1, 3, 3), np.float32)}, ["y"])
    assert found["y"].item() == 9


LOAD_A_GRAPH = "import sys, time; from service.session import CANARY, Session; Session(CANARY); time.sleep(%d)"
# Under CI and pytest the telemetry of ONNX Runtime holds its tongue by itself.
BARE = {k: v for k, v in os.environ.items() if not k.startswith(("CI", "PYTEST", "GITHUB", "ORT_"))}


def test_the_telemetry_of_onnx_runtime_is_never_set_up(tmp_path: Path) -> None:
    """Where it is, it makes an identity for the device and a cache of events below the home folder."""
    command = [sys.executable, "-c", LOAD_A_GRAPH % 0]
    subprocess.run(command, check=True, cwd=ROOT, env={**BARE, "HOME": str(tmp_path)})
    assert not list(tmp_path.rglob("*onnxruntime*"))


@pytest.mark.prove
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_onnx_runtime_opens_no_connection(tmp_path: Path) -> None:
    """Its telemetry does within some ten seconds, also where events are switched off after the import."""
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=connect", "-o", trace, sys.executable, "-c", LOAD_A_GRAPH % 16]
    subprocess.run(command, check=True, cwd=ROOT, env=BARE)
    assert "AF_INET" not in trace.read_text()


def test_a_session_says_what_goes_in_and_out() -> None:
    opened = session.Session(canary())
    assert opened.inputs == {"x": session.Port("tensor(float)", (1, 1, 3, 3))}
    assert opened.outputs == {"y": session.Port("tensor(float)", (1, 1, 1, 1))}


def test_a_wrong_input_is_an_inference_error() -> None:
    with pytest.raises(InferenceError, match="ONNX Runtime failed"):
        session.Session(canary()).run({"x": np.ones((1, 1, 2, 2), np.float32)}, ["y"])


def test_a_broken_graph_is_a_bundle_error() -> None:
    with pytest.raises(BundleError, match="ONNX Runtime refuses the graph"):
        session.Session(b"broken")


def test_the_cpu_always_works() -> None:
    assert session.resolve("cpu") == "cpu"


@WITHOUT_CARD
def test_cuda_asked_for_without_a_card_is_an_error_and_auto_is_the_cpu() -> None:
    with pytest.raises(DeviceError, match="set PERCEPT_DEVICE=cpu"):
        session.resolve("cuda")
    assert session.resolve("auto") == "cpu"


def test_a_card_that_does_not_work_falls_back_only_under_auto(monkeypatch, caplog, tmp_path) -> None:
    monkeypatch.setattr(session, "NVIDIA_NODES", (tmp_path,))
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert session.resolve("auto") == "cpu"
    assert "serving on the CPU" in caplog.text


@WITHOUT_CARD
def test_tensorrt_asked_for_without_it_is_an_error_that_says_what_to_install(capfd) -> None:
    with pytest.raises(DeviceError, match=r"TensorRT was asked for .* Install percept\[tensorrt\]") as caught:
        session.resolve("tensorrt")
    assert "PERCEPT_DEVICE=cuda" in str(caught.value)
    assert "Falling back" not in capfd.readouterr().out


def test_tensorrt_that_this_build_does_not_have_is_an_error(monkeypatch) -> None:
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(DeviceError, match="this build of ONNX Runtime has no TensorRT"):
        session.resolve("tensorrt")


def test_auto_never_takes_tensorrt(monkeypatch, tmp_path) -> None:
    asked = []
    monkeypatch.setattr(session, "NVIDIA_NODES", (tmp_path,))
    monkeypatch.setattr(session, "_fault", asked.append)
    assert session.resolve("auto") == "cuda"
    assert asked == ["cuda"]


@WITHOUT_CARD
def test_a_device_that_is_not_there_is_never_replaced_by_another() -> None:
    with pytest.raises(DeviceError, match="did not load CUDAExecutionProvider"):
        session.Session(canary(), "cuda")
    with pytest.raises(BundleError, match="TensorRT"):
        session.Session(canary(), "tensorrt")


def test_a_folder_for_engines_that_cannot_be_made_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("no folder")
    tuning = session.Tuning(engines=tmp_path / "file" / "engines")
    with pytest.raises(DeviceError, match=r"PERCEPT_ENGINE_CACHE: .*engines cannot be made"):
        session.Session(canary(), "tensorrt", tuning=tuning)
    assert session.Session(canary(), tuning=tuning).outputs


def trunk() -> tuple[session.Session, dict[str, np.ndarray]]:
    """A real trunk with several outputs, and three images for it."""
    opened = session.Session(BUILT_IN / "cifar10" / "1" / "trunk.onnx")
    return opened, {"pixels": np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)}


def test_bound_inputs_and_outputs_give_the_same_bit_by_bit() -> None:
    """Those that are asked for, in the order in which they are."""
    opened, feeds = trunk()
    for outputs in (sorted(opened.outputs), sorted(opened.outputs, reverse=True), ["logits"]):
        found = opened._bind(feeds, outputs, "cpu")
        plain = opened.run(feeds, outputs)
        assert len(found) == len(outputs)
        for array, expected in zip(found, plain.values(), strict=True):
            assert isinstance(array, np.ndarray)
            np.testing.assert_array_equal(array, expected, strict=True)


def test_bound_inputs_need_not_be_contiguous() -> None:
    opened, feeds = trunk()
    turned = {"pixels": feeds["pixels"][:, ::-1, :, ::-1]}
    (found,) = opened._bind(turned, ["logits"], "cpu")
    np.testing.assert_array_equal(found, opened.run(turned, ["logits"])["logits"])


def test_runs_with_bound_inputs_do_not_disturb_each_other() -> None:
    opened, feeds = trunk()
    images = [feeds["pixels"][k : k + 1] for k in (0, 1, 2)] * 8
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: opened._bind({"pixels": image}, ["logits"], "cpu")[0], images))
    for image, logits in zip(images, found, strict=True):
        np.testing.assert_array_equal(logits, opened.run({"pixels": image}, ["logits"])["logits"])


def test_out_of_memory_says_what_to_do() -> None:
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


# As ONNX Runtime 1.31, CUDA and TensorRT write them; those from reports are shortened.
ERRORS = {
    "Failed to allocate memory": "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer "
    "of size 643840",
    "Available memory of": "bfc_arena.cc Available memory of 1024 is smaller than requested bytes of 2048",
    "out of memory": "[ONNXRuntimeError] : 1 : FAIL : \ncuda_call.cc:121 CUDA failure 2: out of memory ; GPU=0",
    "cudaMallocFromPoolAsync failed": "CudaMempoolArena::Alloc: cudaMallocFromPoolAsync failed: 2",
    "_ALLOC_FAILED": "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cublasCreate(&handle)",
    "provide all the dynamic shape inputs": "EP_FAIL : User needs to provide all the dynamic shape inputs with "
    "associated profiles if they want to explicitly set profiles through provider options.",
}


def test_every_advice_is_given_for_an_error_as_it_is_written() -> None:
    assert set(ERRORS) == set(session.ADVICE)
    for mark, text in ERRORS.items():
        reason = session._reason(RuntimeError(text))
        assert "\n" not in reason
        assert reason.endswith(f"({session.ADVICE[mark]})")


def test_an_error_that_nothing_is_known_of_stands_alone() -> None:
    assert session._reason(RuntimeError("Got invalid dimensions\nfor input")) == "Got invalid dimensions"
    assert session._reason(ValueError()) == "ValueError"
