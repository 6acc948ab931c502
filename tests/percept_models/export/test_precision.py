"""Trunks in lower precision: what stays the same, what gets smaller, and how large the error is."""

import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from torch import Tensor, nn

from percept.errors import BundleError
from percept_models.autodiff.tail import LOGITS
from percept_models.export import precision
from percept_models.export.bundle_writer import golden_input
from percept_models.export.precision import to_float16, to_int8
from percept_models.graph.builder import OPSET
from percept_models.graph.execution import run
from percept_models.graph.reader import Array
from percept_models.sources.trunk import PIXELS, trace
from percept_models.verify.checks import difference
from tests.percept_models.networks import PREPROCESSING, Classifier, Pyramid

PHOTOS = [golden_input(PREPROCESSING, seed)[0] for seed in range(24)]


class Normed(nn.Module):
    """Two batch norms, one with a variance too large for float16 and one that follows no convolution.

    After them are an operator that the tools leave in float32 and a dead channel, which the tools log.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.late = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 4, 1)
        self.first.weight.data *= 1e3
        nn.init.constant_(self.norm.get_buffer("running_var"), 1e6)
        self.head.weight.data[0] *= 1e-10

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        x = self.late(self.norm(self.first(x)).relu())
        return self.head(torch.maximum(x, -x))


NETWORKS = {
    "classifier": (Classifier, ("stem", "stage1", "stage2")),
    "pyramid": (Pyramid, ("stage1", "stage2", "stage3", "merge")),
    "normed": (Normed, ("norm", "late")),
}
CONVERSIONS: dict[str, Callable[[ModelProto], ModelProto]] = {
    "float16": to_float16,
    "int8": lambda trunk: to_int8(trunk, PHOTOS),
}
BOUNDS = {"float16": 3e-3, "int8": 0.1}  # the greatest relative error of an output
MAX_WEIGHT = 64  # in int8; the sum of two products with it and 255 fits into int16


@pytest.fixture(scope="module", params=NETWORKS)
def trunk(request: pytest.FixtureRequest) -> ModelProto:
    network, layers = NETWORKS[request.param]
    return trace(network(), PREPROCESSING, layers)


@pytest.fixture(scope="module")
def converted(trunk: ModelProto) -> dict[str, ModelProto]:
    """The trunk in each precision."""
    return {name: convert(trunk) for name, convert in CONVERSIONS.items()}


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own for temporary files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def signature(model: ModelProto) -> list[tuple[str, int, list[str | int]]]:
    """Name, type and shape of all inputs and outputs, in order."""
    values = [(value.name, value.type.tensor_type) for value in [*model.graph.input, *model.graph.output]]
    return [(name, kind.elem_type, [d.dim_param or d.dim_value for d in kind.shape.dim]) for name, kind in values]


@pytest.mark.parametrize("name", CONVERSIONS)
def test_signature_stays_the_same(trunk: ModelProto, converted: dict[str, ModelProto], name: str) -> None:
    assert signature(converted[name]) == signature(trunk)
    assert {kind for _, kind, _ in signature(converted[name])[1:]} == {TensorProto.FLOAT}
    assert {shape[0] for _, _, shape in signature(converted[name])} == {"N"}
    onnx.checker.check_model(converted[name], full_check=True)


@pytest.mark.parametrize("name", CONVERSIONS)
def test_outputs_stay_close_to_float32(trunk: ModelProto, converted: dict[str, ModelProto], name: str) -> None:
    """In a batch of images that were not used for calibration."""
    batch = np.stack([golden_input(PREPROCESSING, seed)[0] for seed in range(100, 105)])
    expected, found = run(trunk, {PIXELS: batch}), run(converted[name], {PIXELS: batch})
    assert list(found) == list(expected)
    for output in expected:
        assert found[output].dtype == np.float32
        assert difference(found[output], expected[output]) < BOUNDS[name], output


def weight_types(model: ModelProto) -> set[int]:
    """The types of the stored tensors with more than one axis."""
    return {t.data_type for t in model.graph.initializer if len(t.dims) > 1}


def test_weights_are_stored_in_the_precision(trunk: ModelProto, converted: dict[str, ModelProto]) -> None:
    assert weight_types(trunk) == {TensorProto.FLOAT}
    assert weight_types(converted["float16"]) == {TensorProto.FLOAT16}
    assert weight_types(converted["int8"]) == {TensorProto.INT8}


def test_weights_have_a_scale_per_channel_and_no_zero_point(
    trunk: ModelProto, converted: dict[str, ModelProto]
) -> None:
    stored = {t.name: numpy_helper.to_array(t) for t in converted["int8"].graph.initializer}
    inputs = [n.input for n in converted["int8"].graph.node if n.op_type == "DequantizeLinear" and n.input[0] in stored]
    weights = [names for names in inputs if stored[names[0]].dtype == np.int8]
    assert weights
    for value, scale, zero_point in weights:
        assert stored[scale].shape == stored[value].shape[:1]
        assert not stored[zero_point].any()
        assert np.abs(stored[value]).max() == MAX_WEIGHT


def test_integer_kernels_do_not_saturate(converted: dict[str, ModelProto]) -> None:
    """Without optimization ONNX Runtime computes the quantized graph in float32, where nothing saturates."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    quantized, batch = converted["int8"], np.stack(PHOTOS[:4])
    found = run(quantized, {PIXELS: batch})
    session = ort.InferenceSession(quantized.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for output, expected in zip(found, session.run(list(found), {PIXELS: batch}), strict=True):
        assert difference(found[output], expected) < 0.02, output  # some values are rounded to the next step


def test_activations_are_unsigned(converted: dict[str, ModelProto]) -> None:
    """Signed activations are slower on the CPU."""
    stored = {t.name: t.data_type for t in converted["int8"].graph.initializer}
    quantized = [n for n in converted["int8"].graph.node if n.op_type == "QuantizeLinear"]
    assert {stored[node.input[2]] for node in quantized} == {TensorProto.UINT8}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_converted_trunk_is_a_copy(trunk: ModelProto, name: str) -> None:
    """The tools move the weights out of a model that they get."""
    before = trunk.SerializeToString(deterministic=True)
    CONVERSIONS[name](trunk)
    assert trunk.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", CONVERSIONS)
def test_conversion_is_reproducible(trunk: ModelProto, converted: dict[str, ModelProto], name: str) -> None:
    again = CONVERSIONS[name](trunk)
    assert again.SerializeToString(deterministic=True) == converted[name].SerializeToString(deterministic=True)
    assert not again.metadata_props
    assert [(opset.domain, opset.version) for opset in again.opset_import] == [("", OPSET)]


@pytest.mark.parametrize("name", CONVERSIONS)
def test_conversion_logs_nothing_and_leaves_no_file(
    trunk: ModelProto,
    name: str,
    scratch: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It prints nothing and does not configure logging either."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # pytest's own would hide a new one
    CONVERSIONS[name](trunk)
    assert capfd.readouterr() == ("", "")
    assert root.handlers == []
    assert list(scratch.iterdir()) == []


def test_failed_quantization_leaves_no_file(trunk: ModelProto, scratch: Path) -> None:
    def broken() -> Iterator[Array]:
        yield PHOTOS[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"):
        to_int8(trunk, broken())
    assert list(scratch.iterdir()) == []


def test_quantization_needs_a_photo(trunk: ModelProto) -> None:
    with pytest.raises(BundleError, match="no photo"):
        to_int8(trunk, iter(()))


def test_logits_of_linear_layers_are_not_rounded() -> None:
    """Of a thousand classes several would share one of 256 values."""
    trunk = trace(Classifier(), PREPROCESSING, ("stem",))
    last = to_int8(trunk, PHOTOS).graph.node[-1]
    assert (last.op_type, list(last.output)) == ("Gemm", [LOGITS])


def test_telemetry_is_disabled_before_the_tools_are_imported() -> None:
    """ONNX Runtime reads the variable when it is imported."""
    script = """
import os, sys
os.environ.pop("ORT_DISABLE_TELEMETRY", None)
environments = []
sys.addaudithook(lambda event, args: args and args[0] == "onnxruntime" and environments.append(dict(os.environ)))
import percept_models.export.precision
assert environments[0]["ORT_DISABLE_TELEMETRY"] == "1"
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(precision.__file__).parents[3])
