"""Tails of whole networks against PyTorch's autograd."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from percept.bundle.manifest import IMAGE
from percept.runtime.session import Session
from percept_models.autodiff.reverse import tail
from percept_models.graph.reader import Graph, run
from percept_models.sources.trunk import Trunk, trace
from tests.percept_models.networks import HOW, Classifier, Pyramid

NETWORKS = [
    (Classifier, ("stem", "stage1", "stage2"), {"stem": (), "stage1": (), "stage2": ()}),
    (Pyramid, ("stage1", "stage2", "stage3", "merge"), {"stage2": (8,), "stage3": (8, 8), "merge": ()}),
]


@pytest.mark.parametrize(("kind", "layers", "crossing"), NETWORKS)
def test_a_tail_agrees_with_autograd_at_every_cut(
    kind: type[nn.Module], layers: Sequence[str], crossing: dict[str, tuple[int, ...]]
) -> None:
    """Logits and gradients are PyTorch's for batches of 1 and 3 in one session."""
    network = kind()
    graph = Graph(trace(network, HOW, layers))
    module = Trunk(network, HOW, layers)
    for i, layer in enumerate(layers, 1):
        made, names = tail(graph, layer)
        onnx.checker.check_model(made, full_check=True)
        assert tuple(graph.shapes[name][1] for name in names) == crossing.get(layer, ())
        opened = Session(made.SerializeToString())
        for batch in (1, 3):
            pixels = torch.randint(0, 256, (batch, HOW.height, HOW.width, 3), dtype=torch.uint8)
            found = run(_with_outputs(graph, names), {"pixels": pixels.numpy()})
            logits, *taps = module(pixels)
            seed = torch.randn(logits.shape)
            (truth,) = torch.autograd.grad((logits * seed).sum(), taps[i - 1])
            feeds = {name: found[name] for name in names}
            feeds |= {"activations": taps[i - 1].detach().numpy(), "seed": seed.numpy()}
            answer = opened.run(feeds, ["logits", "gradients"])
            np.testing.assert_allclose(answer["logits"], logits.detach().numpy(), atol=1e-5)
            assert np.abs(answer["gradients"] - truth.numpy()).max() / truth.abs().max() < 1e-5


def _with_outputs(graph: Graph, names: Sequence[str]) -> onnx.ModelProto:
    """The trunk with more tensors as outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph.model)
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return copy


@pytest.mark.parametrize("kind", [Classifier, Pyramid])
def test_a_tail_may_start_at_the_image(kind: type[nn.Module]) -> None:
    """Cut behind the cast to float, the gradient is that of the pixels, through the normalisation."""
    network = kind()
    graph = Graph(trace(network, HOW, ()))
    cast = next(node for node in graph.nodes if node.op_type == "Cast")
    made, names = tail(graph, cast.output[0])
    assert names == ()
    pixels = 255 * torch.rand(2, HOW.height, HOW.width, 3)
    pixels.requires_grad_()
    logits = Trunk(network, HOW, ())(pixels)[0]
    seed = torch.randn(logits.shape)
    (truth,) = torch.autograd.grad((logits * seed).sum(), pixels)
    feeds = {"activations": pixels.detach().numpy(), "seed": seed.numpy()}
    gradients = run(made, feeds)["gradients"]
    assert np.abs(gradients - truth.numpy()).max() / truth.abs().max() < 1e-5


@pytest.mark.parametrize("kind", [Classifier, Pyramid])
def test_layers_on_the_way_may_have_seeds_of_their_own(kind: type[nn.Module]) -> None:
    """One cell, a whole layer, or nothing in any form that broadcasts: gradients add up."""
    network, layers = kind(), (IMAGE, "stage1", "stage2")
    made, _ = tail(Graph(trace(network, HOW, layers)), IMAGE, seeds=layers[1:])
    pixels = torch.randint(0, 256, (2, HOW.height, HOW.width, 3), dtype=torch.uint8)
    logits, image, *taps = Trunk(network, HOW, layers)(pixels)
    seed, inner = torch.randn(logits.shape), torch.zeros(taps[0].shape)
    inner[:, :, 2, 1] = 1
    feeds = {"activations": image.detach().numpy(), "seed": 0 * seed.numpy()}
    nothing = {"seed.stage1": np.zeros((1, 1, 1, 1), np.float32), "seed.stage2": np.zeros((1, 1, 1, 1), np.float32)}
    one = nothing | {"seed.stage1": inner.numpy()}
    all_three = {"seed": seed.numpy(), "seed.stage1": inner.numpy(), "seed.stage2": np.ones((1, 1, 1, 1), np.float32)}
    for given, y in (
        (one, taps[0][:, :, 2, 1].sum()),
        (all_three, taps[0][:, :, 2, 1].sum() + taps[1].sum() + (logits * seed).sum()),
    ):
        (truth,) = torch.autograd.grad(y, image, retain_graph=True)
        found = run(made, feeds | given)["gradients"]
        assert np.abs(found - truth.numpy()).max() / truth.abs().max() < 1e-5
    assert not run(made, feeds | nothing)["gradients"].any()


def test_a_tail_holds_only_what_it_needs() -> None:
    """Behind the last stage lie a pooling and a linear layer, forward and back: six nodes."""
    made, _ = tail(Graph(trace(Classifier(), HOW, ["stage2"])), "stage2")
    assert len(made.graph.node) <= 6
    assert {t.name for t in made.graph.initializer} >= {"network.head.weight", "network.head.bias"}
    assert all(
        name.startswith("d.") or "head" in name or "val" in name for name in (t.name for t in made.graph.initializer)
    )


def test_a_cut_that_does_not_reach_the_logits_is_refused() -> None:
    """So is a cut at the logits themselves."""
    graph = Graph(trace(Classifier(), HOW, ["stage2"]))
    with pytest.raises(ValueError, match="nowhere"):
        tail(graph, "nowhere")
    with pytest.raises(ValueError, match="logits"):
        tail(graph, "logits")
