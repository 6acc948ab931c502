"""A batch that is fixed, computed or open; `import_network` itself compares every graph with its file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, numpy_helper

from percept.errors import BundleError
from percept_models.autodiff.tail import build_tail
from percept_models.graph.reader import Graph
from percept_models.importer.network import import_network
from tests.percept_models.importer.graphs import (
    floats,
    ints,
    node,
    operators,
    pool_and_flatten,
    random_logits,
    write_classifier,
)


def shuffle_targets(n: int) -> list[TensorProto]:
    return [ints("apart", n, 2, 2, 8, 6), ints("together", n, -1, 8, 6)]


SHUFFLE = [
    node("Reshape", "c apart", "five"),
    node("Transpose", "five", "turned", perm=[0, 2, 1, 3, 4]),
    node("Reshape", "turned together", "shuffled"),
    *pool_and_flatten("shuffled"),
]
COMPUTED_TARGETS = [
    node("Shape", "c", "s"),
    node("Gather", "s first", "n"),
    node("Gather", "s second", "k"),
    node("Div", "k two", "half"),
    *(node("Unsqueeze", f"{x} axis", f"{x}.1") for x in ("n", "half")),
    node("Concat", "n.1 two.1 half.1 cells", "apart", axis=0),
    node("Concat", "n.1 minus cells", "together", axis=0),
]
NUMBERS = [
    *(numpy_helper.from_array(np.array(i), name) for name, i in (("first", 0), ("second", 1), ("two", 2))),
    *(ints("axis", 0), ints("two.1", 2), ints("cells", 8, 6), ints("minus", -1)),
]
RESIZE = [node("Resize", "c - - sizes", "r", mode="linear"), *pool_and_flatten("r")]
MERGE = [
    node("Reshape", "c pairs", "m"),
    node("Relu", "m", "r"),
    node("Reshape", "r whole", "u"),
    *pool_and_flatten("u"),
]
EXPAND = [
    node("GlobalAveragePool", "c", "g"),
    node("Expand", "g wide", "e"),
    node("Concat", "c e", "ce", axis=1),
    *pool_and_flatten("ce"),
]
# The nodes after the convolution c [n,4,8,6], and their constants for a batch of n.
BATCHES: dict[str, tuple[list[NodeProto], Callable[[int], list[TensorProto]]]] = {
    "channel shuffle": (SHUFFLE, shuffle_targets),
    "sizes computed from the image": ([*COMPUTED_TARGETS, *SHUFFLE], lambda n: NUMBERS),
    "resize": (RESIZE, lambda n: [ints("sizes", n, 4, 16, 9)]),
    "resize to the same size": (RESIZE, lambda n: [ints("sizes", n, 4, 8, 6)]),
    "channels merged into the batch": (MERGE, lambda n: [ints("pairs", 2 * n, 2, 8, 6), ints("whole", n, 4, 8, 6)]),
    "expand": (EXPAND, lambda n: [ints("wide", n, 4, 8, 6)]),
}


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("case", BATCHES)
def test_fixed_batch_becomes_symbolic(tmp_path: Path, case: str, n: int) -> None:
    """No size is computed at run time any more, and the tail has a gradient."""
    nodes, weights = BATCHES[case]
    network = import_network(write_classifier(tmp_path, *nodes, weights=weights(n), image=(n, 3, 8, 6)))
    assert f"the batch fixed at {n} was made symbolic" in network.notes
    assert not {"Shape", "Gather", "Div"} & set(operators(network))
    assert random_logits(network).shape[0] == 3
    graph = Graph(network.model)
    assert all(None not in graph.shapes[name][1:] for node in graph.nodes for name in node.output)
    build_tail(graph, "c")


def test_sizes_computed_from_open_batch_become_constant(tmp_path: Path) -> None:
    network = import_network(write_classifier(tmp_path, *COMPUTED_TARGETS, *SHUFFLE, weights=NUMBERS))
    assert operators(network) == ["Conv", "Reshape", "Transpose", "Reshape", "GlobalAveragePool", "Flatten"]


def test_open_batch_may_move_to_another_axis(tmp_path: Path) -> None:
    """[1,-1,4] is kept where the batch is open, although it looks like the target of a fixed batch."""
    nodes = [node("GlobalAveragePool", "c", "p"), node("Reshape", "p sequence", "s")]
    nodes += [node("Relu", "s", "r"), node("Squeeze", "r axis", "y")]
    file = write_classifier(tmp_path, *nodes, weights=[ints("sequence", 1, -1, 4), ints("axis", 0)])
    assert random_logits(import_network(file)).shape == (3, 4)


MIXED = [
    node("ReduceMean", "c", "m", axes=[0], keepdims=1),
    node("Sub", "c m", "d"),
    node("Add", "d c", "a"),
    *pool_and_flatten("a"),
]


@pytest.mark.parametrize(("batch", "described"), [(1, "fixed at 1"), ("N", "open, but")])
def test_batch_that_mixes_images_is_rejected(tmp_path: Path, batch: int | str, described: str) -> None:
    message = rf"the batch is {described}.*could not be made symbolic: a number differs"
    with pytest.raises(BundleError, match=message):
        import_network(write_classifier(tmp_path, *MIXED, image=(batch, 3, 8, 6)))


def test_batch_stored_in_a_weight_is_rejected(tmp_path: Path) -> None:
    nodes = [node("Concat", "c token", "a", axis=1), *pool_and_flatten("a")]
    file = write_classifier(tmp_path, *nodes, weights=[floats("token", 1, 2, 8, 6)], image=(1, 3, 8, 6))
    with pytest.raises(BundleError, match="the batch is fixed at 1 and could not be made symbolic: ONNX Runtime"):
        import_network(file)
