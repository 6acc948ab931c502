"""Operators of any opset become those of `OPSET`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import NodeProto, TensorProto, numpy_helper

from percept_models.autodiff.tail import build_tail
from percept_models.graph.builder import OPSET
from percept_models.graph.execution import run
from percept_models.graph.reader import Graph
from percept_models.importer.network import import_network
from tests.percept_models.importer.graphs import floats, node, operators, pool_and_flatten, write_classifier


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 20, 22])
def test_any_opset_is_converted(tmp_path: Path, opset: int) -> None:
    network = import_network(write_classifier(tmp_path, opset=opset))
    assert [o.version for o in network.model.opset_import] == [OPSET]
    assert network.notes == (() if opset == OPSET else (f"opset {opset} was converted to {OPSET}",))


def test_newer_operator_is_expressed_by_older_ones(tmp_path: Path) -> None:
    network = import_network(write_classifier(tmp_path, node("Gelu", "c", "g"), *pool_and_flatten("g"), opset=20))
    assert "Erf" in operators(network)


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization_has_gradients(tmp_path: Path, opset: int) -> None:
    """It is expanded, as ONNX infers no shape for it; before opset 21 it has one weight per group, not per channel."""
    count = 2 if opset < 21 else 4
    weights = [floats("s", count, seed=1), floats("b", count, seed=2)]
    nodes = [node("GroupNormalization", "c s b", "g", num_groups=2), *pool_and_flatten("g")]
    network = import_network(write_classifier(tmp_path, *nodes, weights=weights, opset=opset))
    assert "GroupNormalization" not in operators(network)
    tail, crossing = build_tail(Graph(network.model), "c")
    assert crossing == ()
    A = np.random.default_rng(3).standard_normal((2, 4, 8, 6)).astype(np.float32)
    scale, bias = (torch.tensor(numpy_helper.to_array(w)).repeat_interleave(4 // count) for w in weights)
    x = torch.from_numpy(A).requires_grad_(True)
    y = torch.nn.functional.group_norm(x, 2, scale, bias).mean((2, 3))
    y.square().sum().backward()
    found = run(tail, {"activations": A, "seed": 2 * y.detach().numpy()})
    np.testing.assert_allclose(found["logits"], y.detach().numpy(), atol=1e-5)
    assert x.grad is not None
    np.testing.assert_allclose(found["gradients"], x.grad.numpy(), atol=1e-5)


def old_resize(opset: int, mode: str, scales: Sequence[float]) -> tuple[list[NodeProto], list[TensorProto]]:
    """The operator that resizes `c` to `y` in an old opset, and its weights."""
    if opset < 9:
        return [node("Upsample", "c", "y", mode=mode, scales=[1.0, 1.0, *scales])], []
    weights = numpy_helper.from_array(np.array([1, 1, *scales], np.float32), "scales")
    return [node("Upsample" if opset == 9 else "Resize", "c scales", "y", mode=mode)], [weights]


OLD_RESIZES = [(opset, (1.7, 2.3)) for opset in (7, 8, 9, 10)] + [(9, (2.0, 2.0)), (10, (0.6, 0.45)), (10, (2.0, 0.5))]


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize(("opset", "scales"), OLD_RESIZES)
def test_old_resize_keeps_its_coordinates(tmp_path: Path, opset: int, mode: str, scales: tuple[float, float]) -> None:
    """Up to opset 10 cell i is at i / scale of the input; the gradients are those of this interpolation."""
    nodes, weights = old_resize(opset, mode, scales)
    file = write_classifier(tmp_path, *nodes, weights=weights, opset=opset)
    network = import_network(file)
    x = np.random.default_rng(1).uniform(-1, 1, (1, 3, 8, 6)).astype(np.float32)
    found, expected = run(network.model, {"image": x})["logits"], run(file, {"x": x})["y"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    tail, _ = build_tail(Graph(network.model), "c")
    A, seed = (
        np.random.default_rng(n).standard_normal(s).astype(np.float32) for n, s in ((2, (1, 4, 8, 6)), (3, found.shape))
    )
    gradients = run(tail, {"activations": A, "seed": seed})["gradients"]
    zero = run(tail, {"activations": 0 * A, "seed": seed})["logits"]
    y = run(tail, {"activations": A, "seed": seed})["logits"] - zero
    assert float((gradients * A).sum()) == pytest.approx(float((seed * y).sum()), rel=1e-3)


def test_operator_that_only_gained_types_is_kept(tmp_path: Path) -> None:
    """ONNX's version converter cannot convert ConstantOfShape back."""
    nodes = [node("Shape", "c", "s"), node("ConstantOfShape", "s", "zero"), node("Add", "c zero", "a")]
    network = import_network(write_classifier(tmp_path, *nodes, *pool_and_flatten("a"), opset=21))
    assert network.notes == ("opset 21 was converted to 18",)
