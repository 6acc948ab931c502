"""ONNX Runtime behind its wall: devices fail loudly, graphs by name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service import session
from service.errors import BundleError, DeviceError, InferenceError
from tests.conftest import ROOT


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


@pytest.mark.skipif(any(node.exists() for node in session.NVIDIA_NODES), reason="this machine has a CUDA device")
def test_cuda_asked_for_without_a_card_is_an_error_and_auto_is_the_cpu() -> None:
    with pytest.raises(DeviceError, match="set PERCEPT_DEVICE=cpu"):
        session.resolve("cuda")
    assert session.resolve("auto") == "cpu"


def test_a_card_that_does_not_work_falls_back_only_under_auto(monkeypatch, caplog, tmp_path) -> None:
    monkeypatch.setattr(session, "NVIDIA_NODES", (tmp_path,))
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert session.resolve("auto") == "cpu"
    assert "serving on the CPU" in caplog.text
