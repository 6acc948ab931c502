"""Receptive fields against tables computed by hand."""

import pytest
import torch
from torch import nn

from models.graph import Graph
from models.receptive import fields
from models.trunk import trace
from service.manifest import Preprocessing
from tests.models.networks import HOW, Pyramid

W = 2  # a width of two channels: the fields do not depend on it


def conv(size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> nn.Module:
    """A convolution of two channels."""
    return nn.LazyConv2d(W, size, stride, padding, dilation)


def pool(size: int, stride: int = 2, padding: int = 0) -> nn.Module:
    """A maximum pooling."""
    return nn.MaxPool2d(size, stride, padding)


class Bottleneck(nn.Module):
    """ResNet's block of three convolutions and a projection; `early` strides in the first, not the second."""

    def __init__(self, stride: int = 1, early: bool = False) -> None:
        super().__init__()
        first, second = (stride, 1) if early else (1, stride)
        self.body = nn.Sequential(conv(1, first), conv(3, second, 1), conv(1))
        self.shortcut = conv(1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        return (self.body(x) + self.shortcut(x)).relu()


def vgg(*stages: int) -> nn.Module:
    """Stages of 3x3 convolutions, each followed by a pooling."""
    return nn.Sequential(*(nn.Sequential(*(conv(3, 1, 1) for _ in range(n)), pool(2)) for n in stages))


def resnet(*stages: int, early: bool = False) -> nn.Module:
    """A stem at stride 4 and four stages of bottlenecks."""
    parts = [nn.Sequential(conv(7, 2, 3), pool(3, 2, 1))]
    for i, n in enumerate(stages):
        parts.append(nn.Sequential(*(Bottleneck(2 if i and not j else 1, early) for j in range(n))))
    return nn.Sequential(*parts)


ALEXNET = nn.Sequential(
    conv(11, 4, 2), pool(3), conv(5, 1, 2), pool(3), conv(3, 1, 1), conv(3, 1, 1), conv(3, 1, 1), pool(3)
)

# network, layer, stride, size, start. Sizes and strides: Araujo et al. 2019 and the arithmetic of Dumoulin & Visin.
TABLE = [
    (ALEXNET, "0", 4, 11, 3.5),
    (ALEXNET, "1", 8, 19, 7.5),
    (ALEXNET, "2", 8, 51, 7.5),
    (ALEXNET, "3", 16, 67, 15.5),
    (ALEXNET, "6", 16, 163, 15.5),
    (ALEXNET, "7", 32, 195, 31.5),
    (vgg(2, 2, 3, 3, 3), "0", 2, 6, 1.0),
    (vgg(2, 2, 3, 3, 3), "2", 8, 44, 4.0),
    (vgg(2, 2, 3, 3, 3), "4", 32, 212, 16.0),
    (resnet(3, 4, 6, 3), "0", 4, 11, 0.5),
    (resnet(3, 4, 6, 3), "1", 4, 35, 0.5),
    (resnet(3, 4, 6, 3), "2", 8, 91, 0.5),
    (resnet(3, 4, 6, 3), "3", 16, 267, 0.5),
    (resnet(3, 4, 6, 3), "4", 32, 427, 0.5),  # as torchvision strides
    (resnet(3, 4, 6, 3, early=True), "4", 32, 483, 0.5),  # as the paper strides
]


class Headed(nn.Module):
    """A network with a head, so that it has logits."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        return self.body(x).mean((2, 3))


def computed(body: nn.Module, layer: str, size: int = 224) -> tuple[float, int, float]:
    """Stride, size and start along x, after checking that y has the same."""
    with torch.no_grad():
        body(torch.zeros(1, 3, size, size))
    how = Preprocessing(height=size, width=size)
    field = fields(Graph(trace(Headed(body), how, [f"body.{layer}"])))[f"body.{layer}"]
    assert field.y == field.x
    assert field.receptive is not None
    return field.stride[0], field.receptive.size[0], field.receptive.start[0]


@pytest.mark.parametrize(("body", "layer", "stride", "size", "start"), TABLE)
def test_known_networks(body: nn.Module, layer: str, stride: int, size: int, start: float) -> None:
    """AlexNet, VGG-16 and ResNet-50 have the fields that hand-computed tables give."""
    assert computed(body, layer) == (stride, size, start)


def test_dilation_widens_the_field_and_is_reported() -> None:
    """Three 3x3 convolutions at dilations 1, 2 and 4 see 15 pixels."""
    body = nn.Sequential(conv(3, 1, 1), conv(3, 1, 2, 2), conv(3, 1, 4, 4))
    assert computed(body, "2", 32) == (1.0, 15, 0.5)
    graph = Graph(trace(Headed(body), Preprocessing(height=32, width=32), ["body.1", "body.2"]))
    assert [fields(graph)[f"body.{i}"].dilation for i in (1, 2)] == [(2, 2), (4, 4)]


def test_transposed_convolution_and_padding() -> None:
    """Upsampling by 2 halves the stride; what is seen stays between the neighbours."""
    body = nn.Sequential(conv(2, 2), nn.ConvTranspose2d(W, W, 2, 2), nn.ZeroPad2d(1))
    assert computed(body, "1", 32) == (1.0, 3, 0.5)
    assert computed(body, "2", 32) == (1.0, 3, -0.5)


def test_a_pyramid_merges_fields() -> None:
    """What is summed sees the union of what its parts see, at the stride of the finest."""
    found = fields(Graph(trace(Pyramid(), HOW, ["stage3", "merge"])))
    coarse, fine = found["stage3"], found["merge"]
    assert coarse.receptive is not None
    assert fine.receptive is not None
    assert (coarse.stride, fine.stride) == ((8.0, 8.0), (2.0, 2.0))
    # lateral 3 sees 15; each bilinear step adds 1.5 strides of 8 and 4, the last convolution 4
    assert (coarse.receptive.size, fine.receptive.size) == ((15, 15), (37, 37))


def test_the_field_is_where_the_gradient_is() -> None:
    """With positive weights, the pixels that move a cell are exactly its receptive field."""
    network = Pyramid()
    for parameter in network.parameters():
        parameter.data.abs_()
    how = Preprocessing(height=96, width=96)
    field = fields(Graph(trace(network, how, ["merge"])))["merge"].receptive
    assert field is not None
    seen: list[torch.Tensor] = []
    network.merge.register_forward_hook(lambda _m, _i, y: seen.append(y))
    x = torch.ones(1, 3, 96, 96, requires_grad=True)
    network(x)
    low, high = 96, 0
    for cell in (22, 23, 24, 25):
        (gradient,) = torch.autograd.grad(seen[0][0, :, cell, 24].sum(), x, retain_graph=True)
        rows = gradient.abs().sum((0, 1, 3)).nonzero().flatten() - 2 * cell
        low, high = min(low, int(rows[0])), max(high, int(rows[-1]) + 1)
    assert (high - low, (low + high) / 2) == (field.size[0], field.start[0])


def test_global_pooling_has_no_finite_field() -> None:
    """Squeeze and excitation lets every cell see everything, and the stride stays."""

    class Excited(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate = conv(3, 2, 1), nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(1))
            self.last = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Compute the output."""
            x = self.first(x)
            return self.last(x * self.gate(x).sigmoid()).relu()

    body = nn.Sequential(Excited())
    with torch.no_grad():
        body(torch.zeros(1, 3, 32, 32))
    field = fields(Graph(trace(Headed(body), Preprocessing(height=32, width=32), ["body.0"])))["body.0"]
    assert field.receptive is None
    assert field.stride == (2.0, 2.0)
