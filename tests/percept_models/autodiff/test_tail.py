"""Tails of small networks against PyTorch's autograd."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from percept.bundle.manifest import IMAGE
from percept.runtime.session import Session
from percept_models.autodiff.tail import build_tail
from percept_models.graph.execution import run
from percept_models.graph.reader import Array, Graph
from percept_models.sources.trunk import Trunk, trace
from tests.percept_models.networks import PREPROCESSING, Classifier, Pyramid, random_pixels
from tests.percept_models.onnx_models import with_outputs

NETWORKS = [
    (Classifier, ("stem", "stage1", "stage2"), {"stem": (), "stage1": (), "stage2": ()}),
    (Pyramid, ("stage1", "stage2", "stage3", "merge"), {"stage2": (8,), "stage3": (8, 8), "merge": ()}),
]


def relative_error(found: Array, expected: Tensor) -> float:
    """The greatest difference, relative to the greatest magnitude."""
    return float(np.abs(found - expected.numpy()).max() / expected.abs().max())


@pytest.mark.parametrize(("network_class", "layers", "channels"), NETWORKS)
def test_tail_agrees_with_autograd_at_every_layer(
    network_class: type[nn.Module], layers: Sequence[str], channels: dict[str, tuple[int, ...]]
) -> None:
    """Logits and gradients are PyTorch's for batches of 1 and 3 in one session.

    `channels` are those of the tensors that cross the cut.
    """
    network = network_class()
    graph = Graph(trace(network, PREPROCESSING, layers))
    trunk = Trunk(network, PREPROCESSING, layers)
    for i, layer in enumerate(layers, 1):
        tail, crossing = build_tail(graph, layer)
        onnx.checker.check_model(tail, full_check=True)
        assert tuple(graph.shapes[name][1] for name in crossing) == channels.get(layer, ())
        session = Session(tail.SerializeToString())
        for batch in (1, 3):
            pixels = random_pixels(batch)
            found = run(with_outputs(graph.model, crossing), {"pixels": pixels.numpy()})
            logits, *taps = trunk(pixels)
            seed = torch.randn(logits.shape)
            (expected,) = torch.autograd.grad((logits * seed).sum(), taps[i - 1])
            feeds = {name: found[name] for name in crossing}
            feeds |= {"activations": taps[i - 1].detach().numpy(), "seed": seed.numpy()}
            outputs = session.run(feeds, ["logits", "gradients"])
            np.testing.assert_allclose(outputs["logits"], logits.detach().numpy(), atol=1e-5)
            assert relative_error(outputs["gradients"], expected) < 1e-5


@pytest.mark.parametrize("network_class", [Classifier, Pyramid])
def test_tail_may_start_at_the_pixels(network_class: type[nn.Module]) -> None:
    """Cut after the cast to float, the gradient is that of the pixels, through the normalization."""
    network = network_class()
    graph = Graph(trace(network, PREPROCESSING, ()))
    cast = next(node for node in graph.nodes if node.op_type == "Cast")
    tail, crossing = build_tail(graph, cast.output[0])
    assert crossing == ()
    pixels = 255 * torch.rand(2, PREPROCESSING.height, PREPROCESSING.width, 3)
    pixels.requires_grad_()
    logits = Trunk(network, PREPROCESSING, ())(pixels)[0]
    seed = torch.randn(logits.shape)
    (expected,) = torch.autograd.grad((logits * seed).sum(), pixels)
    found = run(tail, {"activations": pixels.detach().numpy(), "seed": seed.numpy()})
    assert relative_error(found["gradients"], expected) < 1e-5


@pytest.mark.parametrize("network_class", [Classifier, Pyramid])
def test_inner_layers_may_have_seeds(network_class: type[nn.Module]) -> None:
    """Seeds of one cell, a whole layer, and zeros in a shape that broadcasts: their gradients add up."""
    network, layers = network_class(), (IMAGE, "stage1", "stage2")
    tail, _ = build_tail(Graph(trace(network, PREPROCESSING, layers)), IMAGE, seeds=layers[1:])
    logits, image, *taps = Trunk(network, PREPROCESSING, layers)(random_pixels(2))
    seed, cell = torch.randn(logits.shape), torch.zeros(taps[0].shape)
    cell[:, :, 2, 1] = 1
    feeds = {"activations": image.detach().numpy(), "seed": 0 * seed.numpy()}
    zeros = {"seed.stage1": np.zeros((1, 1, 1, 1), np.float32), "seed.stage2": np.zeros((1, 1, 1, 1), np.float32)}
    one = zeros | {"seed.stage1": cell.numpy()}
    all_three = {"seed": seed.numpy(), "seed.stage1": cell.numpy(), "seed.stage2": np.ones((1, 1, 1, 1), np.float32)}
    for given, y in (
        (one, taps[0][:, :, 2, 1].sum()),
        (all_three, taps[0][:, :, 2, 1].sum() + taps[1].sum() + (logits * seed).sum()),
    ):
        (expected,) = torch.autograd.grad(y, image, retain_graph=True)
        assert relative_error(run(tail, feeds | given)["gradients"], expected) < 1e-5
    assert not run(tail, feeds | zeros)["gradients"].any()


def test_tail_holds_only_what_it_needs() -> None:
    """After the last stage there are a pooling and a linear layer, forward and backward: six nodes."""
    tail, _ = build_tail(Graph(trace(Classifier(), PREPROCESSING, ["stage2"])), "stage2")
    assert len(tail.graph.node) <= 6
    weights = {t.name for t in tail.graph.initializer}
    assert weights >= {"network.head.weight", "network.head.bias"}
    assert all(name.startswith("d.") or "head" in name or "val" in name for name in weights)


def test_cut_without_path_to_logits_is_rejected() -> None:
    """So is a cut at the logits themselves."""
    graph = Graph(trace(Classifier(), PREPROCESSING, ["stage2"]))
    with pytest.raises(ValueError, match="nowhere"):
        build_tail(graph, "nowhere")
    with pytest.raises(ValueError, match="logits"):
        build_tail(graph, "logits")
