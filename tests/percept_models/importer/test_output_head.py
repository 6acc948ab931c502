"""Whatever a file ends with, logits come out."""

from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, helper

from percept.bundle.manifest import Preprocessing
from percept_models.graph.reader import run
from percept_models.importer.network import read, trunk
from tests.percept_models.importer.graphs import POOL, conv, floats, ints, logits_of, node, operators, written

SOFTMAX_OF_MAPS = [
    node("Transpose", "c", "t", perm=[0, 2, 3, 1]),
    node("Softmax", "t", "s", axis=3),
    node("Transpose", "s", "y", perm=[0, 3, 1, 2]),
]
# nodes after the convolution c [N,4,8,6] → the shape of the logits, the activation, the operator that was cut
ENDS = {
    "a softmax": ([*POOL[:-1], node("Flatten", "p", "f"), node("Softmax", "f", "y", axis=1)], (4,), "Softmax"),
    "a logarithm": ([*POOL[:-1], node("Flatten", "p", "f"), node("LogSoftmax", "f", "y", axis=1)], (4,), "LogSoftmax"),
    "a softmax, then flattened": (
        [*POOL[:1], node("Softmax", "p", "s", axis=1), node("Flatten", "s", "y")],
        (4,),
        "Softmax",
    ),
    "a sigmoid": ([*POOL[:-1], node("Flatten", "p", "f"), node("Sigmoid", "f", "y")], (4,), "Sigmoid"),
    "an identity behind it": ([*POOL, node("Softmax", "y", "s", axis=1), node("Identity", "s", "z")], (4,), "Softmax"),
    "classes as the last axis for a while": (SOFTMAX_OF_MAPS, (4, 8, 6), "Softmax"),
    "classes of pixels": ([node("Softmax", "c", "y", axis=1)], (4, 8, 6), "Softmax"),
    "no activation": (POOL, (4,), None),
    "a softmax over rows, which is no activation": ([node("Softmax", "c", "y", axis=2)], (4, 8, 6), None),
    "cells of size 1": ([node("GlobalAveragePool", "c", "y")], (4,), None),
}


@pytest.mark.parametrize("opset", [12, 13])
@pytest.mark.parametrize("case", ENDS)
def test_the_activation_at_the_end_is_cut_off(tmp_path: Path, case: str, opset: int) -> None:
    nodes, shape, cut = ENDS[case]
    if opset < 13 and "axis" in str(nodes) and shape != (4,) and nodes is not SOFTMAX_OF_MAPS:
        cut = None  # there it was over everything that follows
    foreign = read(written(tmp_path, [conv("x", "c"), *nodes], outputs=nodes[-1].output, opset=opset))
    assert logits_of(foreign).shape[1:] == shape
    assert [note for note in foreign.notes if "cut off" in note] == [f"the {cut} at the end was cut off"] * bool(cut)
    assert foreign.activation == ("sigmoid" if cut == "Sigmoid" else "softmax")
    y = run(foreign.model, {"image": np.ones((1, 3, 8, 6), np.float32)})["logits"]
    if cut:
        assert y.min() < 0  # bare, as the convolution gives them


def test_cells_of_size_one_are_flattened(tmp_path: Path) -> None:
    foreign = read(written(tmp_path, [conv("x", "c"), node("GlobalAveragePool", "c", "y")]))
    assert "the output was flattened to [N,K]" in foreign.notes


NHWC = [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), conv("t", "c")]


@pytest.mark.parametrize("behind", [[], [node("Relu", "z", "y")]])
def test_a_segmenter_with_channels_last_is_turned(tmp_path: Path, behind: list[NodeProto]) -> None:
    """A transpose that the file ends with is taken off, otherwise one is put behind."""
    nodes = [*NHWC, node("Transpose", "c", "z" if behind else "y", perm=[0, 2, 3, 1]), *behind]
    foreign = read(written(tmp_path, nodes, image=("N", 8, 6, 3)))
    assert (foreign.layout, foreign.size) == ("NHWC", (8, 6))
    assert logits_of(foreign).shape == (3, 4, 8, 6)
    assert operators(foreign).count("Transpose") == (3 if behind else 1)
    rule = Preprocessing(height=8, width=6, channels="BGR", mean=(1, 2, 3), std=(4, 5, 6))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3), np.uint8)
    x = ((pixels[..., ::-1] - np.array([1, 2, 3])) / [4, 5, 6]).astype(np.float32)
    expected = run(foreign.model, {"image": x})["logits"]
    np.testing.assert_allclose(run(trunk(foreign, rule), {"pixels": pixels})["logits"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("turned", [False, True])
def test_a_mask_of_one_channel_becomes_two_classes(tmp_path: Path, turned: bool) -> None:
    """softmax([0, y]) = [1 - sigmoid(y), sigmoid(y)], also where the file has the channel last."""
    nodes = [helper.make_node("Conv", ["x", "one"], ["c"]), node("Sigmoid", "c", "s" if turned else "y")]
    nodes += [node("Reshape", "s last", "y")] * turned
    file = written(tmp_path, nodes, [floats("one", 1, 3, 1, 1), ints("last", -1, 8, 6, 1)])
    foreign = read(file)
    assert foreign.activation == "softmax"
    x = np.random.default_rng(0).uniform(-1, 1, (1, 3, 8, 6)).astype(np.float32)
    powers = np.exp(run(foreign.model, {"image": x})["logits"])
    expected = run(file, {"x": x})["y"].reshape(1, 1, 8, 6)
    np.testing.assert_allclose(powers[:, 1:] / powers.sum(1, keepdims=True), expected, rtol=1e-5)
