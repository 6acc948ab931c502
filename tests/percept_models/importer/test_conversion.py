"""Operators of any opset become those of `OPSET`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import numpy_helper

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


def test_operator_that_only_gained_types_is_kept(tmp_path: Path) -> None:
    """ONNX's version converter cannot convert ConstantOfShape back."""
    nodes = [node("Shape", "c", "s"), node("ConstantOfShape", "s", "zero"), node("Add", "c zero", "a")]
    network = import_network(write_classifier(tmp_path, *nodes, *pool_and_flatten("a"), opset=21))
    assert network.notes == ("opset 21 was converted to 18",)
