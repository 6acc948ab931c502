"""Files with float16, bfloat16 or float64 inside become float32 and compute the same, within what the file rounds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from percept.errors import BundleError
from percept.runtime.session import Session
from percept_models.graph.builder import OPSET
from percept_models.graph.reader import Array, Graph
from percept_models.importer.float_types import check_float32, to_float32
from percept_models.importer.network import import_network
from tests.percept_models.importer.graphs import conv, floats, node, operators, pool_and_flatten, random_logits
from tests.percept_models.importer.graphs import write_file as write

TYPES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16, "float64": TensorProto.DOUBLE}
IMAGES = np.random.default_rng(1).uniform(-1, 1, (3, 3, 8, 6)).astype(np.float32)


def stored_as(name: str, kind: int, weights: TensorProto) -> TensorProto:
    """A weight in another type."""
    values = numpy_helper.to_array(weights)
    return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(kind)), name)


def rounded_weights() -> list[NodeProto]:
    """A network in float32 whose weights are stored in another type."""
    return [node("Cast", "half", "full", to=1), conv("x", "c", "full"), *pool_and_flatten("c")]


def inside(kind: str) -> list[NodeProto]:
    """A network that computes in another type between two casts."""
    to = TYPES[kind]
    return [
        node("Cast", "x", "narrow", to=to),
        conv("narrow", "c", "half"),
        node("GlobalAveragePool", "c", "p"),
        node("Flatten", "p", "f"),
        node("Cast", "f", "y", to=1),
    ]


def write_file(folder: Path, nodes: Sequence[NodeProto], kind: str) -> Path:
    """Write a network with the weight `half` in another type."""
    return write(folder, nodes, [stored_as("half", TYPES[kind], floats("w", 4, 3, 3, 3))])


def run_file(file: Path, images: Array) -> Array:
    """The output of the file itself, image by image, without optimizers."""
    session = Session(file, optimize=False)
    return np.concatenate([session.run({"x": image[None]}, ["y"])["y"] for image in images])


@pytest.mark.parametrize("kind", TYPES)
def test_weights_of_other_types_become_float32(tmp_path: Path, kind: str) -> None:
    """float16 and bfloat16 are exact in float32, so the weights are the same numbers."""
    file = write_file(tmp_path, rounded_weights(), kind)
    network = import_network(file)
    graph = Graph(network.model)
    (weights,) = (graph.value(name) for n in graph.nodes if n.op_type == "Conv" for name in n.input[1:])
    exact = numpy_helper.to_array(onnx.load(file).graph.initializer[1]).astype(np.float32)
    np.testing.assert_array_equal(weights, exact)
    np.testing.assert_allclose(random_logits(network), run_file(file, IMAGES), atol=1e-6)


def test_float16_inside_a_file_becomes_float32(tmp_path: Path) -> None:
    """No cast and no float16 tensor remains, and a note says what changed."""
    file = write_file(tmp_path, inside("float16"), "float16")
    network = import_network(file)
    assert operators(network) == ["Conv", "GlobalAveragePool", "Flatten"]
    graph = Graph(network.model)
    assert {graph.dtype(name) for name in graph.shapes} == {np.dtype(np.float32)}
    assert any(note.startswith("float16 became float32: its output changes by") for note in network.notes)
    expected = run_file(file, IMAGES)
    np.testing.assert_allclose(random_logits(network), expected, atol=2e-3 * float(np.abs(expected).max()))


def test_type_without_cpu_kernels_is_not_compared(tmp_path: Path) -> None:
    """ONNX Runtime convolves no bfloat16 on a CPU; the note says that the file could not be run."""
    network = import_network(write_file(tmp_path, inside("bfloat16"), "bfloat16"))
    assert operators(network) == ["Conv", "GlobalAveragePool", "Flatten"]
    assert any("cannot run the file itself" in note for note in network.notes)


def test_float64_arithmetic_becomes_float32(tmp_path: Path) -> None:
    to_double = [node("Cast", "c", "d", to=TensorProto.DOUBLE), node("Sigmoid", "d", "e"), node("Cast", "e", "f", to=1)]
    file = write(tmp_path, [conv("x", "c"), *to_double, *pool_and_flatten("f")])
    network = import_network(file)
    assert "Cast" not in operators(network)
    np.testing.assert_allclose(random_logits(network), run_file(file, IMAGES), rtol=1e-5)


def test_difference_that_rounding_does_not_explain_is_rejected() -> None:
    """A factor that is off by a third of a percent is found; float16 rounds by at most 0.05 percent."""
    nodes = [
        node("Cast", "x", "h", to=TensorProto.FLOAT16),
        node("Mul", "h big", "m"),
        node("Reciprocal", "m", "r"),
        node("Cast", "r", "y", to=1),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    big = numpy_helper.from_array(np.array(60000, np.float16), "big")
    graph = helper.make_graph(nodes, "g", [image], [helper.make_empty_tensor_value_info("y")], [big])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    converted, types = to_float32(model)
    assert types == ["float16"]
    scaled = onnx.ModelProto()
    scaled.CopyFrom(converted)
    scaled.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(60200, np.float32), "big"))
    images = np.random.default_rng(0).uniform(0.1, 1, (2, 4)).astype(np.float32)
    assert "its output changes by" in check_float32(model, converted, images, 1)
    with pytest.raises(BundleError, match="more than rounding explains"):
        check_float32(model, scaled, images, 1)
