"""The operators that are quantized: ONNX Runtime computes each of them on 8-bit integers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper

from percept_models.autodiff.tail import LOGITS
from percept_models.export import precision
from percept_models.export.precision import OPERATORS, to_int8
from percept_models.graph.builder import OPSET, Builder
from percept_models.graph.reader import Array
from percept_models.sources.trunk import PIXELS

# Each operator on x [N,8,16,16]; b is the graph builder, c stores a constant.
CASES: dict[str, Callable[..., str]] = {
    "Conv": lambda b, x, c: b.op.Conv(x, c(noise(8, 8, 1, 1))),
    "Gemm": lambda b, x, c: b.op.Gemm(b.op.Flatten(x), c(noise(4, 2048)), c(noise(4)), transB=1),
    "MatMul": lambda b, x, c: b.op.MatMul(x, c(noise(16, 4))),
    "Add": lambda b, x, c: b.op.Add(x, b.op.Sigmoid(x)),
    "Mul": lambda b, x, c: b.op.Mul(x, b.op.Sigmoid(x)),
    "Relu": lambda b, x, c: b.op.Relu(x),
    "Clip": lambda b, x, c: b.op.Clip(x, c(np.float32(0)), c(np.float32(6))),
    "LeakyRelu": lambda b, x, c: b.op.LeakyRelu(x),
    "Sigmoid": lambda b, x, c: b.op.Sigmoid(x),
    "MaxPool": lambda b, x, c: b.op.MaxPool(x, kernel_shape=[2, 2]),
    "AveragePool": lambda b, x, c: b.op.AveragePool(x, kernel_shape=[2, 2]),
    "GlobalAveragePool": lambda b, x, c: b.op.GlobalAveragePool(x),
    "Concat": lambda b, x, c: b.op.Concat(x, b.op.Sigmoid(x), axis=1),
    "Split": lambda b, x, c: b.op.Concat(*b.write("Split", [x], 2, axis=2, num_outputs=2), axis=1),
    "Slice": lambda b, x, c: b.op.Slice(x, c(np.array([0])), c(np.array([8])), c(np.array([2]))),
    "Gather": lambda b, x, c: b.op.Gather(x, c(np.array([1, 0, 3])), axis=1),
    "Reshape": lambda b, x, c: b.op.Reshape(x, c(np.array([0, 4, 2, 256]))),
    "Flatten": lambda b, x, c: b.op.Flatten(x),
    "Transpose": lambda b, x, c: b.op.Transpose(x, perm=[0, 1, 3, 2]),
    "Squeeze": lambda b, x, c: b.op.Squeeze(b.op.GlobalAveragePool(x), c(np.array([2, 3]))),
    "Unsqueeze": lambda b, x, c: b.op.Unsqueeze(x, c(np.array([1]))),
}
UNLISTED: dict[str, Callable[..., str]] = {
    "Resize": lambda b, x, c: b.op.Resize(x, "", c(np.array([1, 1, 2, 2], np.float32)), mode="linear"),
    "ConvTranspose": lambda b, x, c: b.op.ConvTranspose(x, c(noise(8, 8, 2, 2))),
    "Pad": lambda b, x, c: b.op.Conv(b.op.Pad(x, c(np.array([0, 0, 1, 1, 0, 0, 1, 1]))), c(noise(8, 8, 3, 3))),
}


def noise(*shape: int) -> Array:
    """Uniform numbers around zero."""
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def build_trunk(case: Callable[..., str]) -> ModelProto:
    """A trunk of a convolution followed by a case."""
    b = Builder()
    planes = b.op.Transpose(b.op.Cast(PIXELS, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    x = b.op.Conv(planes, b.constant(noise(8, 3, 3, 3) / 100), b.constant(noise(8)), pads=[1] * 4)
    y = case(b, x, b.constant)
    nodes = [*b.nodes, helper.make_node("Identity", [y], [LOGITS])]
    pixels = helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["N", 16, 16, 3])
    logits = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "case", [pixels], [logits], list(b.constants.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def dequantized(case: Callable[..., str], folder: Path) -> list[str]:
    """The tensors that ONNX Runtime converts back to float before the logits of a quantized case."""
    photos = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    model = to_int8(build_trunk(case), photos)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(folder / "optimized.onnx").graph.node
    return [n.input[0] for n in nodes if n.op_type == "DequantizeLinear" and LOGITS not in n.output]


def test_every_listed_operator_has_a_case() -> None:
    assert set(OPERATORS) == set(CASES)


@pytest.mark.parametrize("operator", CASES)
def test_listed_operators_run_on_integers(tmp_path: Path, operator: str) -> None:
    assert operator in {node.op_type for node in build_trunk(CASES[operator]).graph.node}
    assert dequantized(CASES[operator], tmp_path) == []


@pytest.mark.parametrize("operator", UNLISTED)
def test_unlisted_operators_would_run_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operator: str
) -> None:
    monkeypatch.setattr(precision, "OPERATORS", (*OPERATORS, operator))
    assert dequantized(UNLISTED[operator], tmp_path)
