"""A batch that is fixed, counted or open; `read` itself compares every graph with its file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, numpy_helper

from percept.errors import BundleError
from percept_models.autodiff.reverse import tail
from percept_models.graph.reader import Graph
from percept_models.importer.network import read
from tests.percept_models.importer.graphs import conv, floats, ints, logits_of, node, operators, pooled, written


def shuffled(n: int) -> list[TensorProto]:
    return [ints("apart", n, 2, 2, 8, 6), ints("together", n, -1, 8, 6)]


SHUFFLE = [
    node("Reshape", "c apart", "five"),
    node("Transpose", "five", "turned", perm=[0, 2, 1, 3, 4]),
    node("Reshape", "turned together", "shuffled"),
    *pooled("shuffled"),
]
COUNTED = [
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
RESIZED = [node("Resize", "c - - sizes", "r", mode="linear"), *pooled("r")]
MERGED = [node("Reshape", "c pairs", "m"), node("Relu", "m", "r"), node("Reshape", "r whole", "u"), *pooled("u")]
EXPANDED = [
    node("GlobalAveragePool", "c", "g"),
    node("Expand", "g wide", "e"),
    node("Concat", "c e", "ce", axis=1),
    *pooled("ce"),
]
# nodes after the convolution c [n,4,8,6], their constants by n, and which operators must be gone
BATCHES: dict[str, tuple[list[NodeProto], Callable[[int], list[TensorProto]]]] = {
    "a channel shuffle": (SHUFFLE, shuffled),
    "sizes counted from the picture": ([*COUNTED, *SHUFFLE], lambda n: NUMBERS),
    "a resize to sizes": (RESIZED, lambda n: [ints("sizes", n, 4, 16, 9)]),
    "a resize to the size it has": (RESIZED, lambda n: [ints("sizes", n, 4, 8, 6)]),
    "channels that become pictures": (MERGED, lambda n: [ints("pairs", 2 * n, 2, 8, 6), ints("whole", n, 4, 8, 6)]),
    "an expansion": (EXPANDED, lambda n: [ints("wide", n, 4, 8, 6)]),
}


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("case", BATCHES)
def test_a_fixed_batch_becomes_symbolic(tmp_path: Path, case: str, n: int) -> None:
    """`read` itself compares with the file; here also: no size is computed at run time, every tail has a gradient."""
    nodes, weights = BATCHES[case]
    foreign = read(written(tmp_path, [conv("x", "c"), *nodes], weights(n), image=(n, 3, 8, 6)))
    assert f"the batch fixed at {n} was made symbolic" in foreign.notes
    assert not {"Shape", "Gather", "Div"} & set(operators(foreign))
    assert logits_of(foreign).shape[0] == 3
    graph = Graph(foreign.model)
    assert all(None not in graph.shapes[name][1:] for made in graph.nodes for name in made.output)
    tail(graph, "c")


def test_sizes_counted_from_an_open_batch_become_constant(tmp_path: Path) -> None:
    foreign = read(written(tmp_path, [conv("x", "c"), *COUNTED, *SHUFFLE], NUMBERS))
    assert operators(foreign) == ["Conv", "Reshape", "Transpose", "Reshape", "GlobalAveragePool", "Flatten"]


def test_an_open_batch_may_stand_on_another_axis(tmp_path: Path) -> None:
    """[1,-1,4] is right where the file meant it, although it begins like a fixed batch."""
    nodes = [conv("x", "c"), node("GlobalAveragePool", "c", "p"), node("Reshape", "p sequence", "s")]
    nodes += [node("Relu", "s", "r"), node("Squeeze", "r axis", "y")]
    assert logits_of(read(written(tmp_path, nodes, [ints("sequence", 1, -1, 4), ints("axis", 0)]))).shape == (3, 4)


MIXED = [
    node("ReduceMean", "c", "m", axes=[0], keepdims=1),
    node("Sub", "c m", "d"),
    node("Add", "d c", "a"),
    *pooled("a"),
]


@pytest.mark.parametrize(("batch", "said"), [(1, "fixed at 1"), ("N", "open, but")])
def test_a_batch_whose_pictures_depend_on_each_other_is_refused(tmp_path: Path, batch: int | str, said: str) -> None:
    with pytest.raises(BundleError, match=rf"the batch is {said}.*could not be made symbolic: a number is"):
        read(written(tmp_path, [conv("x", "c"), *MIXED], image=(batch, 3, 8, 6)))


def test_a_fixed_batch_that_is_built_in_is_refused(tmp_path: Path) -> None:
    nodes = [conv("x", "c"), node("Concat", "c token", "a", axis=1), *pooled("a")]
    with pytest.raises(BundleError, match="the batch is fixed at 1 and could not be made symbolic: ONNX Runtime"):
        read(written(tmp_path, nodes, [floats("token", 1, 2, 8, 6)], image=(1, 3, 8, 6)))
