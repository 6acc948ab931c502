"""Outputs of any form are converted to logits."""

from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from percept.bundle.manifest import Activation, OutputHead
from percept.bundle.preprocessing import Preprocessing
from percept.errors import BundleError
from percept.tasks.task import activate
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
    "softmax before cast": (
        [POOL, FLATTEN, node("Softmax", "f", "s", axis=1), node("Cast", "s", "y", to=1)],
        (4,),
        "Softmax",
    ),
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
    softmax_of_others = removed is None and nodes[-1].op_type == "Softmax"
    assert network.activation == ("none" if softmax_of_others else "sigmoid" if removed == "Sigmoid" else "softmax")
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


LOGIT = [POOL, FLATTEN, node("Gemm", "f v", "z")]
V, ONE, AXIS = floats("v", 4, 1), numpy_helper.from_array(np.array(1, np.float32), "one"), ints("axis", 1)
MASK = node("Conv", "c m", "z")
M = floats("m", 1, 4, 1, 1)
# The nodes after c → the operators removed, how class 0 was added, the activation, and the file's output from p, the
# scores [N,2] or [N,2,h,w] of the logits.
ONE_OUTPUT = {
    "logit": ([*LOGIT], (), "zero", "softmax", lambda p: np.log(p[:, 1:] / p[:, :1])),
    "vector": ([*LOGIT, node("Squeeze", "z axis", "y")], (), "zero", "softmax", lambda p: np.log(p[:, 1] / p[:, 0])),
    "sigmoid": ([*LOGIT, node("Sigmoid", "z", "y")], ("Sigmoid",), "zero", "softmax", lambda p: p[:, 1:]),
    "squeezed sigmoid": (
        [*LOGIT, node("Sigmoid", "z", "s"), node("Squeeze", "s axis", "y")],
        ("Sigmoid",),
        "zero",
        "softmax",
        lambda p: p[:, 1],
    ),
    "hard sigmoid": ([*LOGIT, node("HardSigmoid", "z", "y")], (), "complement", "none", lambda p: p[:, 1:]),
    "one minus sigmoid": (
        [*LOGIT, node("Sigmoid", "z", "s"), node("Sub", "one s", "y")],
        (),
        "complement",
        "none",
        lambda p: p[:, 1:],
    ),
    "mask": ([MASK, node("Squeeze", "z axis", "y")], (), "zero", "softmax", lambda p: np.log(p[:, 1] / p[:, 0])),
    "mask of a sigmoid": (
        [MASK, node("Sigmoid", "z", "s"), node("Squeeze", "s axis", "y")],
        ("Sigmoid",),
        "zero",
        "softmax",
        lambda p: p[:, 1],
    ),
}


@pytest.mark.parametrize("case", ONE_OUTPUT)
def test_one_output_becomes_two_classes(tmp_path: Path, case: str) -> None:
    """The scores of both are p and 1 - p, and the file's own output follows from them."""
    nodes, removed, added, activation, output = ONE_OUTPUT[case]
    name = nodes[-1].output[0]
    file = write_classifier(tmp_path, *nodes, outputs=[name], weights=[V, M, ONE, AXIS])
    network = import_network(file)
    assert (network.head.removed, network.head.added, network.activation) == (removed, added, activation)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 3, 8, 6)).astype(np.float32)
    logits = run(network.model, {"image": x})["logits"]
    scores = np.stack([activate(row, network.activation) for row in logits])
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(output(scores), run(file, {"x": x})[name], rtol=1e-4, atol=1e-5)


ARGMAXES = {
    "of pixels": [node("ArgMax", "c", "y", axis=1, keepdims=0)],
    "with its axis": [node("ArgMax", "c", "y", axis=1)],
    "as float": [node("ArgMax", "c", "i", axis=1), node("Cast", "i", "y", to=TensorProto.FLOAT)],
    "of a softmax": [node("Softmax", "c", "s", axis=1), node("ArgMax", "s", "y", axis=1, keepdims=0)],
    "with classes last": [
        node("Transpose", "c", "t", perm=[0, 2, 3, 1]),
        node("ArgMax", "t", "i", axis=-1, keepdims=0),
        node("Cast", "i", "y", to=TensorProto.UINT8),
    ],
    "of an image": [POOL, FLATTEN, node("ArgMax", "f", "y", axis=1, keepdims=0)],
}


@pytest.mark.parametrize("case", ARGMAXES)
def test_argmax_is_removed(tmp_path: Path, case: str) -> None:
    """The greatest logit is that of the class in the file's own output."""
    file = write_classifier(tmp_path, *ARGMAXES[case])
    network = import_network(file)
    assert network.head.removed == (("ArgMax", "Softmax") if case == "of a softmax" else ("ArgMax",))
    assert network.activation == "softmax"
    x = np.random.default_rng(0).uniform(-1, 1, (1, 3, 8, 6)).astype(np.float32)
    logits = run(network.model, {"image": x})["logits"]
    assert logits.shape == ((1, 4) if case == "of an image" else (1, 4, 8, 6))
    np.testing.assert_array_equal(logits.argmax(1).ravel(), run(file, {"x": x})["y"].ravel())


def test_argmax_over_rows_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="an ArgMax over axis 2 of 4 axes, not over classes"):
        import_network(write_classifier(tmp_path, node("ArgMax", "c", "y", axis=2)))


KEPT = {
    "hard sigmoid": [*pool_and_flatten("c"), node("HardSigmoid", "y", "e")],
    "written out": [
        *pool_and_flatten("c"),
        node("Exp", "y", "n"),
        node("ReduceSum", "n axis", "d"),
        node("Div", "n d", "e"),
    ],
    "mean of two": [
        *pool_and_flatten("c"),
        node("Softmax", "y", "a", axis=1),
        node("Sigmoid", "y", "b"),
        node("Mean", "a b", "e"),
    ],
    "resized": [node("Softmax", "c", "s", axis=1), node("Resize", "s - twice", "e", mode="linear")],
    "percentages": [*pool_and_flatten("c"), node("Softmax", "y", "s", axis=1), node("Mul", "s hundred", "e")],
    "logarithm of a sigmoid": [*pool_and_flatten("c"), node("Sigmoid", "y", "s"), node("Log", "s", "e")],
}
HUNDRED = numpy_helper.from_array(np.array(100, np.float32), "hundred")
TWICE = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "twice")


@pytest.mark.parametrize("case", KEPT)
def test_score_that_cannot_be_separated_is_kept(tmp_path: Path, case: str) -> None:
    """The logits are the file's own output, and no activation is applied to them, nor accepted."""
    file = write_classifier(tmp_path, *KEPT[case], outputs=["e"], weights=[AXIS, TWICE, HUNDRED])
    network = import_network(file)
    assert (network.activation, network.head) == ("none", OutputHead())
    assert any("it was kept" in note for note in network.notes)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 3, 8, 6)).astype(np.float32)
    found = run(network.model, {"image": x})["logits"]
    np.testing.assert_allclose(found, run(file, {"x": x})["e"], rtol=1e-5)
    with pytest.raises(BundleError, match="contradicts --activation softmax: leave it out, or use none"):
        import_network(file, activation="softmax")


def test_logarithms_of_a_softmax_have_the_softmax(tmp_path: Path) -> None:
    nodes = [*pool_and_flatten("c"), node("Softmax", "y", "s", axis=1), node("Log", "s", "e")]
    network = import_network(write_classifier(tmp_path, *nodes, outputs=["e"]))
    assert (network.activation, network.head.removed) == ("softmax", ())


REQUESTS = [
    ("Softmax", "softmax", ("Softmax",), "softmax"),
    ("Softmax", "none", (), "none"),
    ("LogSoftmax", "softmax", ("LogSoftmax",), "softmax"),
    ("Sigmoid", "sigmoid", ("Sigmoid",), "sigmoid"),
    ("Identity", "sigmoid", (), "sigmoid"),
]


@pytest.mark.parametrize(("end", "requested", "removed", "activation"), REQUESTS)
def test_requested_activation_is_applied_once(
    tmp_path: Path, end: str, requested: Activation, removed: tuple[str, ...], activation: Activation
) -> None:
    """The scores of the logits are the file's own output, or the requested function of it where it had none."""
    file = write_classifier(tmp_path, *pool_and_flatten("c"), node(end, "y", "e"), outputs=["e"])
    network = import_network(file, activation=requested)
    assert (network.head.removed, network.activation) == (removed, activation)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 3, 8, 6)).astype(np.float32)
    scores = activate(run(network.model, {"image": x})["logits"][0], network.activation)
    output = run(file, {"x": x})["e"][0]
    expected = {"LogSoftmax": np.exp(output), "Identity": 1 / (1 + np.exp(-output))}.get(end, output)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("end", "requested"), [("Softmax", "sigmoid"), ("LogSoftmax", "sigmoid"), ("Sigmoid", "softmax")]
)
def test_requested_activation_that_contradicts_is_rejected(tmp_path: Path, end: str, requested: Activation) -> None:
    file = write_classifier(tmp_path, *pool_and_flatten("c"), node(end, "y", "e"), outputs=["e"])
    with pytest.raises(BundleError, match=f"ends in a {end}, which contradicts --activation {requested}"):
        import_network(file, activation=requested)


SCORELESS = {
    "threshold": ([POOL, FLATTEN, node("Greater", "f one", "g"), node("Cast", "g", "y", to=1)], "that of a Greater"),
    "rounded": ([node("Sigmoid", "c", "s"), node("Round", "s", "y")], "that of a Round"),
    "softmax over one class": ([MASK, node("Softmax", "z", "y", axis=1)], "Softmax over one class"),
    "argmax over one class": ([MASK, node("ArgMax", "z", "y", axis=1)], "ArgMax over one class"),
    "percentage of one": (
        [*LOGIT, node("Sigmoid", "z", "s"), node("Mul", "s hundred", "y")],
        "only output is a percentage",
    ),
    "logarithm of one": ([*LOGIT, node("Sigmoid", "z", "s"), node("Log", "s", "y")], "logarithm of a probability"),
}


@pytest.mark.parametrize("case", SCORELESS)
def test_output_without_scores_is_rejected(tmp_path: Path, case: str) -> None:
    nodes, reason = SCORELESS[case]
    with pytest.raises(BundleError, match=reason):
        import_network(write_classifier(tmp_path, *nodes, weights=[V, M, ONE, HUNDRED]))


def test_axis_of_a_softmax_is_that_of_the_classes(tmp_path: Path) -> None:
    """[N,8,6,4] may be 8 classes in cells of the image's aspect ratio too, or 4 classes last."""
    nodes = [node("Transpose", "c", "t", perm=[0, 2, 3, 1]), node("Softmax", "t", "y", axis=3)]
    network = import_network(write_classifier(tmp_path, *nodes, image=("N", 3, 8, 6)))
    assert network.head == OutputHead(removed=("Softmax",), classes_last=True)
    assert random_logits(network).shape == (3, 4, 8, 6)
