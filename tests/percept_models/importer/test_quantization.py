"""Quantized files keep their rounding in the trunk, and lose it in the network that the tails are built from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from percept.errors import BundleError
from percept_models.autodiff.errors import UnsupportedOperator
from percept_models.autodiff.tail import build_tail
from percept_models.graph.execution import run
from percept_models.graph.reader import Array, Graph
from percept_models.importer.network import import_network
from percept_models.importer.quantization import clip_activations, dequantize_weights, restore_rounding
from tests.percept_models.importer.graphs import conv, node, operators, pool_and_flatten
from tests.percept_models.importer.graphs import write_file as write
from tests.percept_models.onnx_models import with_outputs

RNG = np.random.default_rng(3)
SCALE, ZERO = np.float32(0.02), np.uint8(10)  # floats from -0.2 to 4.9
WEIGHTS = RNG.integers(-127, 128, (4, 3, 3, 3), np.int8)
WEIGHT_SCALES = RNG.uniform(0.001, 0.003, 4).astype(np.float32)
X = RNG.uniform(-1, 1, (2, 3, 8, 6)).astype(np.float32)


def stored(**values: Any) -> list[TensorProto]:
    """Constants by name."""
    return [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]


def pair(x: str, y: str, scale: str = "s", zero: str = "z") -> list[NodeProto]:
    """QuantizeLinear and DequantizeLinear."""
    return [
        node("QuantizeLinear", f"{x} {scale} {zero}", f"{y}.q"),
        node("DequantizeLinear", f"{y}.q {scale} {zero}", y),
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A convolution of int8 weights with a scale for each channel, whose result is rounded to uint8."""
    constants = stored(s=SCALE, z=ZERO, k=WEIGHTS, ks=WEIGHT_SCALES, kz=np.zeros(4, np.int8))
    weights = node("DequantizeLinear", "k ks kz", "kf", axis=0)
    return write(tmp_path, [weights, conv("x", "c", "kf"), *pair("c", "a"), *pool_and_flatten("a")], constants)


def values_of(model: ModelProto, name: str) -> Array:
    """A tensor of a model for the images `X`."""
    return run(with_outputs(model, [name]), {"image": X})[name]


def test_trunk_keeps_weights_in_int8_and_rounding(file: Path) -> None:
    network = import_network(file)
    assert operators(network).count("DequantizeLinear") == 2
    levels = values_of(network.model, "a") / SCALE
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)


def test_weights_are_dequantized_exactly(file: Path) -> None:
    graph = Graph(dequantize_weights(import_network(file).model))
    (node_,) = (n for n in graph.nodes if n.op_type == "Conv")
    expected = WEIGHTS.astype(np.float32) * WEIGHT_SCALES[:, None, None, None]
    np.testing.assert_array_equal(graph.value(node_.input[1]), expected)


def test_rounding_becomes_clip_to_the_range_of_the_integers(file: Path) -> None:
    quantized = dequantize_weights(import_network(file).model)
    unrounded = clip_activations(quantized)
    assert unrounded is not None
    assert not {"QuantizeLinear", "DequantizeLinear"} & {n.op_type for n in unrounded.graph.node}
    c, exact, rounded = values_of(unrounded, "c"), values_of(unrounded, "a"), values_of(quantized, "a")
    np.testing.assert_allclose(exact, c.clip(-0.2, 4.9), atol=1e-6)
    assert (c < -0.2).any()
    assert 0 < np.abs(exact - rounded).max() <= SCALE / 2 * 1.001


def test_pair_without_zero_point_clips_from_zero(tmp_path: Path) -> None:
    nodes = [node("QuantizeLinear", "c s", "a.q"), node("DequantizeLinear", "a.q s", "a")]
    model = import_network(write(tmp_path, [conv("x", "c"), *nodes, *pool_and_flatten("a")], stored(s=SCALE))).model
    unrounded = clip_activations(model)
    assert unrounded is not None
    np.testing.assert_allclose(values_of(unrounded, "a"), values_of(model, "c").clip(0, 255 * SCALE), atol=1e-6)


def test_gradients_pass_inside_the_range_only(file: Path) -> None:
    unrounded = clip_activations(dequantize_weights(import_network(file).model))
    assert unrounded is not None
    tail, _ = build_tail(Graph(unrounded), "c")
    c, seed = values_of(unrounded, "c"), np.ones((2, 4), np.float32)
    gradients = run(tail, {"activations": c, "seed": seed})["gradients"]
    np.testing.assert_allclose(gradients, ((c > -0.2) & (c < 4.9)) / 48, rtol=1e-5)


def test_rounding_is_restored_without_integers(file: Path) -> None:
    """The trunk computes to the bit what the file computes, in floats, and has the outputs of the other one."""
    quantized = dequantize_weights(import_network(file).model)
    unrounded = clip_activations(quantized)
    assert unrounded is not None
    restored = restore_rounding(with_outputs(unrounded, ["a"]), quantized)
    assert [output.name for output in restored.graph.output] == ["logits", "a"]
    assert not {"QuantizeLinear", "DequantizeLinear"} & {n.op_type for n in restored.graph.node}
    found = run(restored, {"image": 4 * X}, optimize=False)
    expected = run(with_outputs(import_network(file).model, ["a"]), {"image": 4 * X}, optimize=False)
    assert expected["a"].max() == pytest.approx(4.9)
    np.testing.assert_array_equal(found["a"], expected["a"])
    np.testing.assert_array_equal(found["logits"], expected["logits"])


def test_network_without_integers_is_unchanged(tmp_path: Path) -> None:
    model = import_network(write(tmp_path, [conv("x", "c"), *pool_and_flatten("c")])).model
    assert dequantize_weights(model) is model
    assert clip_activations(model) is None


ODD_PAIRS = {
    "another scale": [*pair("c", "a")[:1], node("DequantizeLinear", "a.q s2 z", "a")],
    "a scale for each channel": [
        node("QuantizeLinear", "c ks kz", "a.q", axis=1),
        node("DequantizeLinear", "a.q ks kz", "a", axis=1),
    ],
}


@pytest.mark.parametrize("case", ODD_PAIRS)
def test_pair_of_another_kind_ends_the_gradients(tmp_path: Path, case: str) -> None:
    """The layers after it keep theirs."""
    constants = stored(s=SCALE, s2=2 * SCALE, z=ZERO, ks=WEIGHT_SCALES * 10, kz=np.zeros(4, np.uint8))
    nodes = [conv("x", "c"), *ODD_PAIRS[case], node("Relu", "a", "r"), *pool_and_flatten("r")]
    model = import_network(write(tmp_path, nodes, constants)).model
    assert clip_activations(model) is None
    with pytest.raises(UnsupportedOperator, match="QuantizeLinear"):
        build_tail(Graph(model), "c")
    build_tail(Graph(model), "a")


def test_dynamic_quantization_is_rejected(tmp_path: Path) -> None:
    """It would round an image by the range of all images of a batch."""
    nodes = [
        node("DynamicQuantizeLinear", "c", "q s z"),
        node("DequantizeLinear", "q s z", "d"),
        *pool_and_flatten("d"),
    ]
    with pytest.raises(BundleError, match="DynamicQuantizeLinear rounds an image by the range of its whole batch"):
        import_network(write(tmp_path, [conv("x", "c"), *nodes]))
