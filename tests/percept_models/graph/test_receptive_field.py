"""Receptive fields of known networks against published tables and against autograd."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from percept.bundle.preprocessing import Preprocessing
from percept_models.graph.reader import Graph
from percept_models.graph.receptive_field import receptive_fields
from percept_models.sources.libraries import import_torchvision
from percept_models.sources.trunk import trace
from tests.percept_models.networks import PREPROCESSING, NetworkCase, Pyramid, torchvision_network


class WithHead(nn.Module):
    """A network with a head, so that it has logits."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.body(x).mean((2, 3))


def tv(name: str, **options: object) -> Callable[[], Any]:
    """A factory of one of torchvision's networks with few classes."""
    return torchvision_network(name, classes=3, **options)


def alexnet() -> nn.Module:
    """The convolutions of AlexNet; the 55 million parameters after them are never allocated."""
    with torch.device("meta"):
        body = tv("alexnet")().features
    for parameter in body.to_empty(device="cpu").parameters():
        nn.init.uniform_(parameter, 0, 0.01)
    return WithHead(body)


def vgg16() -> nn.Module:
    """The convolutions of VGG-16 with few channels, on which the fields do not depend."""
    widths = [n for width, count in ((2, 2), (3, 2), (4, 3), (4, 3), (4, 3)) for n in (*[width] * count, "M")]
    return WithHead(import_torchvision().models.vgg.make_layers(widths))


def resnet50(stride_in_first: bool = False) -> nn.Module:
    """ResNet-50; with `stride_in_first` a block strides in its first convolution, as in the paper."""
    network = tv("resnet50", width_per_group=4)()
    for name, module in network.named_modules():
        if stride_in_first and name.endswith(".0") and hasattr(module, "conv2"):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
    return network


def convnext_tiny() -> nn.Module:
    """ConvNeXt-Tiny with few channels."""
    module = import_torchvision().models.convnext
    stages = [(4, 4, 3), (4, 8, 3), (8, 8, 9), (8, None, 3)]
    return module.ConvNeXt([module.CNBlockConfig(*row) for row in stages], num_classes=3)


def vgg11_bn() -> nn.Module:
    """The convolutions of VGG-11 with batch norm."""
    return WithHead(tv("vgg11_bn")().features)


INCEPTION = {"aux_logits": False, "init_weights": False}

# Network → size, and layer → stride, size and start of the field. Sizes and strides of the last layers are from Araujo
# et al. 2019 (AlexNet v2 195/32, VGG-16 212/32, ResNet v1-50 483/32, Inception v3 1311/32); those between follow by
# hand from r += (k - 1) * s.
PUBLISHED: Mapping[str, tuple[Callable[[], nn.Module], int, Mapping[str, tuple[int, int, float]]]] = {
    "alexnet": (
        alexnet,
        127,
        {
            "body.0": (4, 11, 3.5),
            "body.2": (8, 19, 7.5),
            "body.3": (8, 51, 7.5),
            "body.5": (16, 67, 15.5),
            "body.6": (16, 99, 15.5),
            "body.8": (16, 131, 15.5),
            "body.10": (16, 163, 15.5),
            "body.12": (32, 195, 31.5),
        },
    ),
    "vgg16": (
        vgg16,
        64,
        {
            "body.4": (2, 6, 1.0),
            "body.9": (4, 16, 2.0),
            "body.16": (8, 44, 4.0),
            "body.23": (16, 100, 8.0),
            "body.28": (16, 196, 8.0),
            "body.30": (32, 212, 16.0),
        },
    ),
    "resnet50": (  # with torchvision's strides
        resnet50,
        64,
        {
            "conv1": (2, 7, 0.5),
            "maxpool": (4, 11, 0.5),
            "layer1": (4, 35, 0.5),
            "layer2": (8, 91, 0.5),
            "layer3": (16, 267, 0.5),
            "layer4": (32, 427, 0.5),
        },
    ),
    "resnet50_v1": (  # with the paper's strides
        lambda: resnet50(stride_in_first=True),
        64,
        {"layer1": (4, 35, 0.5), "layer2": (8, 99, 0.5), "layer3": (16, 291, 0.5), "layer4": (32, 483, 0.5)},
    ),
    "convnext_tiny": (
        convnext_tiny,
        64,
        {
            "features.0": (4, 4, 2.0),
            "features.1": (4, 76, 2.0),
            "features.2": (8, 80, 4.0),
            "features.3": (8, 224, 4.0),
            "features.5": (16, 1096, 8.0),
            "features.7": (32, 1688, 16.0),
        },
    ),
    "inception_v3": (
        tv("inception_v3", transform_input=True, **INCEPTION),
        96,
        {"maxpool1": (4, 15, 5.5), "maxpool2": (8, 31, 13.5), "Mixed_7c": (32, 1311, 37.5)},
    ),
}


def marked(names: Mapping[str, object], prove: set[str]) -> list[object]:
    """Test parameters; those to `prove` run under `make prove` only."""
    return [pytest.param(name, marks=[pytest.mark.prove] if name in prove else []) for name in names]


@pytest.mark.parametrize("name", marked(PUBLISHED, prove={"resnet50_v1", "inception_v3"}))
def test_fields_of_known_networks_are_those_published(name: str) -> None:
    make, size, layers = PUBLISHED[name]
    assert measure_fields(make(), size, *layers) == dict(layers)


def measure_fields(network: nn.Module, size: int, *layers: str) -> dict[str, tuple[float, int, float]]:
    """Layer → stride, size and start along x, after a check that those along y are the same."""
    fields = receptive_fields(Graph(trace(network.eval(), Preprocessing(height=size, width=size), layers)))
    found = {}
    for layer in layers:
        field = fields[layer]
        assert field.receptive_field is not None
        assert field.y == field.x._replace(dim=-2)
        found[layer] = field.stride[0], field.receptive_field.size[0], field.receptive_field.start[0]
    return found


def test_dilation_widens_the_field_and_is_recorded() -> None:
    """Three 3x3 convolutions at dilations 1, 2 and 4 depend on 15 pixels."""
    body = nn.Sequential(
        nn.Conv2d(3, 2, 3, padding=1),
        nn.Conv2d(2, 2, 3, padding=2, dilation=2),
        nn.Conv2d(2, 2, 3, padding=4, dilation=4),
    )
    graph = Graph(trace(WithHead(body), Preprocessing(height=32, width=32), ["body.1", "body.2"]))
    fields = receptive_fields(graph)
    assert [fields[f"body.{i}"].dilation for i in (1, 2)] == [(2, 2), (4, 4)]
    assert measure_fields(WithHead(body), 32, "body.2") == {"body.2": (1.0, 15, 0.5)}


def test_transposed_convolution_halves_the_stride() -> None:
    """The field stays that of the neighbouring cells; padding shifts its start."""
    body = nn.Sequential(nn.Conv2d(3, 2, 2, 2), nn.ConvTranspose2d(2, 2, 2, 2), nn.ZeroPad2d(1))
    expected = {"body.1": (1.0, 3, 0.5), "body.2": (1.0, 3, -0.5)}
    assert measure_fields(WithHead(body), 32, "body.1", "body.2") == expected


def test_pyramid_merges_fields() -> None:
    """A sum has the union of the fields of its inputs, and the finest stride."""
    fields = receptive_fields(Graph(trace(Pyramid(), PREPROCESSING, ["stage3", "merge"])))
    coarse, fine = fields["stage3"], fields["merge"]
    assert coarse.receptive_field is not None
    assert fine.receptive_field is not None
    assert (coarse.stride, fine.stride) == ((8.0, 8.0), (2.0, 2.0))
    # Lateral 3 depends on 15 pixels; each bilinear step adds 1.5 strides of 8 and 4, the last convolution 4.
    assert (coarse.receptive_field.size, fine.receptive_field.size) == ((15, 15), (37, 37))


NETWORKS: Mapping[str, NetworkCase] = {
    "alexnet": NetworkCase(alexnet, 255, ("body.2", "body.5", "body.12")),
    "convnext": NetworkCase(convnext_tiny, 64, ("features.1", "features.3")),
    "densenet": NetworkCase(tv("densenet121"), 64, ("features.denseblock1", "features.denseblock2")),
    "googlenet": NetworkCase(tv("googlenet", **INCEPTION), 96, ("maxpool2", "inception4a")),
    # At this size no column is left over at the end.
    "inception_v3": NetworkCase(tv("inception_v3", **INCEPTION), 91, ("maxpool1", "Mixed_5d", "Mixed_6e")),
    "mobilenet_v2": NetworkCase(tv("mobilenet_v2"), 96, ("features.3", "features.6", "features.18")),
    "pyramid": NetworkCase(Pyramid, 96, ("stage3", "merge")),
    "resnet18": NetworkCase(tv("resnet18"), 128, ("layer1", "layer2", "layer3")),
    "shufflenet": NetworkCase(tv("shufflenet_v2_x0_5"), 96, ("stage2", "stage3")),
    "squeezenet": NetworkCase(tv("squeezenet1_1"), 127, ("features.3", "features.8", "features.12")),
    "vgg11_bn": NetworkCase(vgg11_bn, 128, ("body.7", "body.14", "body.28")),
}
UNIONS = {"merge"}  # after an interpolation the fields of neighbouring cells differ; the stated field is their union


@pytest.mark.parametrize("name", marked(NETWORKS, prove=set(NETWORKS) - {"pyramid", "squeezenet"}))
def test_gradients_of_known_networks_fill_their_fields(name: str) -> None:
    """In corners and in the middle, autograd's pixels are those of the field, clipped at the edges of the image."""
    make, size, layers = NETWORKS[name]
    network = with_positive_weights(make())
    fields = receptive_fields(Graph(trace(network, Preprocessing(height=size, width=size), layers)))
    for layer in layers:
        a = fields[layer].x
        for cell, first, end in gradient_columns(network, layer, size):
            low, high = round(a.low + cell * a.stride), round(a.high + cell * a.stride)
            assert max(low, 0) <= first
            assert end <= min(high, size)
            if layer not in UNIONS:
                assert (first, end) == (max(low, 0), min(high, size))


def with_positive_weights(network: nn.Module) -> nn.Module:
    """The same windows and paths with positive weights and without layers that stop a gradient."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, module in list(network.named_modules()):
            parent, _, own = name.rpartition(".")
            if isinstance(module, nn.ReLU6):
                setattr(network.get_submodule(parent), own, nn.Identity())
            if isinstance(module, nn.MaxPool2d):
                average = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode)
                setattr(network.get_submodule(parent), own, average)
        for parameter in network.parameters():
            parameter.abs_()
    return network.eval()


def gradient_columns(network: nn.Module, layer: str, size: int) -> list[tuple[int, int, int]]:
    """Some cells in the middle row of a layer, with the first column that influences each and the end of the last."""
    taps: list[Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(lambda _m, _i, y: taps.append(y))
    x = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    network.double()(x)
    hook.remove()
    cells = taps[0].shape[-1]
    found = []
    for cell in sorted({0, 1, cells // 2, cells - 1}):
        (g,) = torch.autograd.grad(taps[0][0, :, cells // 2, cell].sum(), x, retain_graph=True)
        columns = g.abs().sum((0, 1, 2)).nonzero().flatten()
        found.append((cell, int(columns[0]), int(columns[-1]) + 1))
    return found
