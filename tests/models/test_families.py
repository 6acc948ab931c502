"""The tails of whole families of networks, as torchvision builds them, against PyTorch's autograd.

Weights are random and pictures small. Most run under `make prove` only: each takes seconds to trace.
"""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from models.autodiff import tail
from models.graph import Graph, run
from models.trunk import LOGITS, Trunk, trace
from models.verify import GRADIENT_LIMIT, LIMIT, difference
from service.manifest import Preprocessing
from tests.models import reference  # noqa: F401  # lets torchvision be imported

PICTURES = 8


class Logits(nn.Module):
    """A segmenter of torchvision without its dictionary."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        answer: Mapping[str, Tensor] = self.network(x)
        return answer["out"]


def classifier(name: str, **other: object) -> Callable[[], nn.Module]:
    """A factory of one of torchvision's classifiers."""
    return lambda: __import__("torchvision").models.get_model(name, weights=None, num_classes=9, **other)


def segmenter(name: str) -> Callable[[], nn.Module]:
    """A factory of one of torchvision's segmenters."""
    return lambda: Logits(classifier(name, weights_backbone=None)())


PLAIN = {"aux_logits": False, "init_weights": False}
# factory, size, and where to cut: the first convolution, an early stage, a late one
QUICK = {
    "squeezenet": (classifier("squeezenet1_1"), 65, ("features.0", "features.2", "features.12")),
    "mobilenet_v3": (classifier("mobilenet_v3_small"), 48, ("features.0.0", "features.1", "features.12")),
}
SLOW = {
    "alexnet": (classifier("alexnet"), 127, ("features.0", "features.2", "features.12")),
    "vgg": (classifier("vgg11"), 48, ("features.0", "features.2", "features.20")),
    "vgg_bn": (classifier("vgg11_bn"), 64, ("features.0", "features.3", "features.28")),
    "googlenet": (classifier("googlenet", **PLAIN), 64, ("conv1.conv", "maxpool1", "inception5b")),
    "inception_v3": (classifier("inception_v3", **PLAIN), 80, ("Conv2d_1a_3x3.conv", "maxpool1", "Mixed_7c")),
    "resnet": (classifier("resnet18"), 48, ("conv1", "layer1", "layer4")),
    "resnext": (classifier("resnext50_32x4d"), 40, ("conv1", "layer1", "layer4")),
    "densenet": (classifier("densenet121"), 48, ("features.conv0", "features.denseblock1", "features.norm5")),
    "mobilenet_v2": (classifier("mobilenet_v2"), 48, ("features.0.0", "features.2", "features.18")),
    "efficientnet": (classifier("efficientnet_b0"), 48, ("features.0.0", "features.1", "features.8")),
    "convnext": (classifier("convnext_tiny"), 48, ("features.0.0", "features.1", "features.7")),
    "fcn": (segmenter("fcn_resnet50"), 25, tuple(f"network.backbone.{n}" for n in ("conv1", "layer1", "layer4"))),
    "deeplabv3": (
        segmenter("deeplabv3_mobilenet_v3_large"),
        33,
        ("network.backbone.0.0", "network.backbone.1", "network.backbone.16"),
    ),
    "lraspp": (
        segmenter("lraspp_mobilenet_v3_large"),
        33,
        ("network.backbone.0.0", "network.backbone.1", "network.backbone.16"),
    ),
}
FAMILIES = [
    *(pytest.param(*row, id=name) for name, row in QUICK.items()),
    *(pytest.param(*row, id=name, marks=pytest.mark.prove) for name, row in SLOW.items()),
]


def settled(network: nn.Module, size: int) -> nn.Module:
    """Give every normalization the statistics of noise: untrained, the signal would fade or burst on its way."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        network.train()(torch.randn(4, 3, size, size))
    for norm in norms:
        assert norm.running_var is not None
        norm.running_var.clamp_(min=0.05)
    return network.eval()


@pytest.mark.parametrize(("make", "size", "layers"), FAMILIES)
def test_a_family_agrees_with_autograd(make: Callable[[], nn.Module], size: int, layers: tuple[str, ...]) -> None:
    """Logits are PyTorch's; so are gradients, on a picture at least where rounding switches no ReLU."""
    torch.manual_seed(0)
    network = settled(make(), size)
    how = Preprocessing(height=size, width=size, mean=(120.0, 115.0, 100.0), std=(60.0, 61.0, 62.0))
    graph = Graph(trace(network, how, layers))
    tails = {layer: tail(graph, layer) for layer in layers}
    pixels = torch.randint(0, 256, (PICTURES, size, size, 3), dtype=torch.uint8)
    truth, *taps = Trunk(network, how, layers).requires_grad_(True)(pixels)
    seed = torch.randn(truth.shape)
    expected = torch.autograd.grad((truth * seed).sum(), taps)
    found = run(crossed(graph, [name for _, names in tails.values() for name in names]), {"pixels": pixels.numpy()})
    assert difference(found[LOGITS], truth.detach().numpy()) < LIMIT
    for layer, tap, gradient in zip(layers, taps, expected, strict=True):
        made, names = tails[layer]
        feeds = {name: found[name] for name in names}
        answer = run(made, feeds | {"activations": tap.detach().numpy(), "seed": seed.numpy()})
        assert difference(answer["logits"], truth.detach().numpy()) < LIMIT
        pairs = zip(answer["gradients"], gradient.numpy(), strict=True)
        assert np.min([difference(a, b) for a, b in pairs]) < GRADIENT_LIMIT, layer


def crossed(graph: Graph, names: list[str]) -> onnx.ModelProto:
    """The trunk with what crosses a cut as further outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph.model)
    more = sorted(set(names) - set(graph.outputs))
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in more)
    return copy
