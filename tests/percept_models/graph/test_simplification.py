"""Slices over whole axes and outputs that repeat another one are removed, and only these."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn

from percept_models.autodiff.errors import UnsupportedOperator
from percept_models.autodiff.tail import build_tail
from percept_models.graph.execution import run
from percept_models.graph.reader import Graph
from percept_models.graph.simplification import simplify
from percept_models.sources.trunk import Trunk, trace
from tests.percept_models.autodiff.cases import X, ints
from tests.percept_models.networks import PREPROCESSING, random_pixels
from tests.percept_models.onnx_models import operator_model, run_tail

END = 2**63 - 1
SIDES = (2, 3)  # the axes of height and width


def simplified_slice(starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], *steps: int) -> ModelProto:
    """A model that is one Slice of x [N,4,6,5], simplified."""
    columns = [ints(*starts), ints(*ends), ints(*axes), *([ints(*steps)] if steps else [])]
    model = ir.from_proto(operator_model("Slice", (X, *columns), {}))
    simplify(model)
    return ir.to_proto(model)


@pytest.mark.parametrize(
    ("starts", "ends", "axes"),
    [([0], [END], [0]), ([0], [2**31 - 1], [0]), ([-END], [END], [-4]), ([0, -9], [6, 5], [2, 3]), ([0], [99], [1])],
)
def test_slice_of_whole_axes_is_removed(starts: Sequence[int], ends: Sequence[int], axes: Sequence[int]) -> None:
    model = simplified_slice(starts, ends, axes)
    assert "Slice" not in {node.op_type for node in model.graph.node}
    np.testing.assert_array_equal(run(model, {"x": X})["logits"], X)


def test_whole_axes_are_dropped_from_slice() -> None:
    model = simplified_slice([0, 1, 0], [END, 3, 6], [0, 1, 2], 1, 1, 1)
    (node,) = (node for node in model.graph.node if node.op_type == "Slice")
    graph = Graph(model)
    assert [graph.value(name).tolist() for name in node.input[1:]] == [[1], [3], [1], [1]]
    y, gradients = run_tail(model, X, X[:, 1:3])
    np.testing.assert_array_equal(y, X[:, 1:3])
    np.testing.assert_array_equal(gradients, np.pad(X[:, 1:3], ((0, 0), (1, 1), (0, 0), (0, 0))))


@pytest.mark.parametrize(
    ("starts", "ends", "steps"), [([0], [5], 1), ([1], [END], 1), ([0], [END], 2), ([END], [-END], -1)]
)
def test_slice_of_part_of_axis_stays(starts: Sequence[int], ends: Sequence[int], steps: int) -> None:
    assert "Slice" in {node.op_type for node in simplified_slice(starts, ends, [2], steps).graph.node}


def test_slice_of_batch_has_no_gradients() -> None:
    """It stays, and the error names it: x[:2] of a batch of any size would select images."""
    model = simplified_slice([0], [2], [0])
    with pytest.raises(UnsupportedOperator, match="Slice: it selects images of the batch"):
        build_tail(Graph(model), "x")


class Sliced(nn.Module):
    """A residual block with the shortcut of CIFAR's ResNets (He et al. 2015, option A), and a head that is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 8, 3, 2, 1), nn.Linear(8, 9)

    def forward(self, x: Tensor) -> Tensor:
        """The shortcut takes every second cell and pads channels; the head gives 9 classes, of which 5 are used."""
        x = torch.relu(self.stem(x))
        shortcut = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        x = torch.relu(self.block(x) + shortcut) * self.block(x)[:, -8:, :, 3:4]
        logits: Tensor = self.head(x.mean(SIDES))[:, :5]
        return logits


def test_sliced_torch_network_has_gradients() -> None:
    torch.manual_seed(0)
    network = Sliced().eval()
    model = trace(network, PREPROCESSING, ["stem"])
    logits, stem = Trunk(network, PREPROCESSING, ["stem"])(random_pixels(2))
    seed = torch.randn(logits.shape)
    (expected,) = torch.autograd.grad((logits * seed).sum(), stem)
    tail, crossing = build_tail(Graph(model), "stem")
    assert crossing == ()
    found = run(tail, {"activations": stem.detach().numpy(), "seed": seed.numpy()})
    np.testing.assert_allclose(found["gradients"], expected.numpy(), atol=1e-5 * float(expected.abs().max()))


def test_equal_outputs_keep_the_first_name() -> None:
    """The removal of an Identity would give both outputs the last name."""
    nodes = [
        helper.make_node("Relu", ["x"], ["image"]),
        helper.make_node("Identity", ["image"], ["copy"]),
        helper.make_node("Neg", ["copy"], ["y"]),
        helper.make_node("Neg", ["image"], ["same"]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("image", "copy", "y", "same")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])], outputs)
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    simplify(model)
    simplified = ir.to_proto(model)
    assert [output.name for output in simplified.graph.output] == ["image", "y"]
    assert [(node.op_type, *node.input) for node in simplified.graph.node] == [("Relu", "x"), ("Neg", "image")]
