"""Outputs of any form are converted to logits."""

from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, helper

from percept.bundle.preprocessing import Preprocessing
from percept_models.graph.execution import run
from percept_models.importer.network import import_network
from percept_models.importer.trunk import build_trunk
from tests.percept_models.importer.graphs import (
    conv,
    floats,
    ints,
    node,
    operators,
    pool_and_flatten,
    random_logits,
    write_classifier,
    write_file,
)

POOL = node("GlobalAveragePool", "c", "p")
FLATTEN = node("Flatten", "p", "f")
SOFTMAX_OF_MAPS = [
    node("Transpose", "c", "t", perm=[0, 2, 3, 1]),
    node("Softmax", "t", "s", axis=3),
    node("Transpose", "s", "y", perm=[0, 3, 1, 2]),
]
# The nodes after the convolution c [N,4,8,6] → the shape of the logits, and the activation that is removed.
HEADS = {
    "softmax": ([POOL, FLATTEN, node("Softmax", "f", "y", axis=1)], (4,), "Softmax"),
    "log softmax": ([POOL, FLATTEN, node("LogSoftmax", "f", "y", axis=1)], (4,), "LogSoftmax"),
    "softmax before flatten": ([POOL, node("Softmax", "p", "s", axis=1), node("Flatten", "s", "y")], (4,), "Softmax"),
    "sigmoid": ([POOL, FLATTEN, node("Sigmoid", "f", "y")], (4,), "Sigmoid"),
    "softmax before identity": (
        [*pool_and_flatten("c"), node("Softmax", "y", "s", axis=1), node("Identity", "s", "z")],
        (4,),
        "Softmax",
    ),
    "softmax with classes last": (SOFTMAX_OF_MAPS, (4, 8, 6), "Softmax"),
    "softmax of pixels": ([node("Softmax", "c", "y", axis=1)], (4, 8, 6), "Softmax"),
    "no activation": (pool_and_flatten("c"), (4,), None),
    "softmax over rows, not classes": ([node("Softmax", "c", "y", axis=2)], (4, 8, 6), None),
    "cells of size 1": ([node("GlobalAveragePool", "c", "y")], (4,), None),
}


@pytest.mark.parametrize("opset", [12, 13])
@pytest.mark.parametrize("case", HEADS)
def test_activation_is_removed(tmp_path: Path, case: str, opset: int) -> None:
    nodes, shape, removed = HEADS[case]
    if opset < 13 and "axis" in str(nodes) and shape != (4,) and nodes is not SOFTMAX_OF_MAPS:
        removed = None  # before opset 13 a softmax was over all axes from its own on
    network = import_network(write_classifier(tmp_path, *nodes, outputs=nodes[-1].output, opset=opset))
    assert random_logits(network).shape[1:] == shape
    notes = [note for note in network.notes if "at the end was removed" in note]
    assert notes == [f"the {removed} at the end was removed"] * bool(removed)
    assert network.activation == ("sigmoid" if removed == "Sigmoid" else "softmax")
    y = run(network.model, {"image": np.ones((1, 3, 8, 6), np.float32)})["logits"]
    if removed:
        assert y.min() < 0  # the output of the convolution, not probabilities


def test_cells_of_size_one_are_flattened(tmp_path: Path) -> None:
    network = import_network(write_classifier(tmp_path, node("GlobalAveragePool", "c", "y")))
    assert "the output was flattened to [N,K]" in network.notes


NHWC = [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), conv("t", "c")]


@pytest.mark.parametrize("following", [[], [node("Relu", "z", "y")]], ids=["transpose last", "relu last"])
def test_channels_last_output_is_transposed(tmp_path: Path, following: list[NodeProto]) -> None:
    """If the file ends with a transpose, that one is removed; otherwise one is added."""
    nodes = [*NHWC, node("Transpose", "c", "z" if following else "y", perm=[0, 2, 3, 1]), *following]
    network = import_network(write_file(tmp_path, nodes, image=("N", 8, 6, 3)))
    assert (network.layout, network.size) == ("NHWC", (8, 6))
    assert random_logits(network).shape == (3, 4, 8, 6)
    assert operators(network).count("Transpose") == (3 if following else 1)
    preprocessing = Preprocessing(height=8, width=6, channels="BGR", mean=(1, 2, 3), std=(4, 5, 6))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3), np.uint8)
    x = ((pixels[..., ::-1] - np.array([1, 2, 3])) / [4, 5, 6]).astype(np.float32)
    expected = run(network.model, {"image": x})["logits"]
    np.testing.assert_allclose(
        run(build_trunk(network, preprocessing), {"pixels": pixels})["logits"], expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("channel_last", [False, True])
def test_single_channel_mask_becomes_two_classes(tmp_path: Path, channel_last: bool) -> None:
    """softmax([0, y]) = [1 - sigmoid(y), sigmoid(y)], also where the channel is the last axis."""
    nodes = [helper.make_node("Conv", ["x", "one"], ["c"]), node("Sigmoid", "c", "s" if channel_last else "y")]
    nodes += [node("Reshape", "s last", "y")] * channel_last
    file = write_file(tmp_path, nodes, [floats("one", 1, 3, 1, 1), ints("last", -1, 8, 6, 1)])
    network = import_network(file)
    assert network.activation == "softmax"
    x = np.random.default_rng(0).uniform(-1, 1, (1, 3, 8, 6)).astype(np.float32)
    powers = np.exp(run(network.model, {"image": x})["logits"])
    expected = run(file, {"x": x})["y"].reshape(1, 1, 8, 6)
    np.testing.assert_allclose(powers[:, 1:] / powers.sum(1, keepdims=True), expected, rtol=1e-5)
