"""The trunk of a torch network: traced as ONNX, with taps that nothing overwrites."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from percept.bundle.preprocessing import Channels, Preprocessing
from percept_models.autodiff.errors import UnsupportedOperator
from percept_models.autodiff.tail import build_tail
from percept_models.graph.execution import run
from percept_models.graph.reader import Graph
from percept_models.graph.stages import Nesting
from percept_models.sources.trunk import Trunk, example_pixels, find_feature_maps, trace
from percept_models.verify.checks import difference
from tests.percept_models.networks import PREPROCESSING, random_pixels


class Branches(nn.Module):
    """Uneven pooling, stacking along a new axis, a choice by comparison and flattening."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, 2)
        self.left, self.right = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.pool = nn.AdaptiveAvgPool2d((4, 3))
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        x = self.stem(x)
        both = torch.stack([self.left(x), self.right(x)]).sum(0)
        both = torch.where(both > 0, both, 0.1 * both)
        return self.head(torch.flatten(self.pool(both), 1))


@pytest.mark.parametrize("layer", ["stem", "left", "pool"])
def test_tail_recomputes_sizes_and_stacks(layer: str) -> None:
    """Only tensors with a batch axis bypass the layer, and the gradient is torch's."""
    network = Branches().eval()
    layers = ("stem", "left", "right", "pool")
    graph = Graph(trace(network, PREPROCESSING, layers))
    assert not {"Gather", "GatherND"} & {node.op_type for node in graph.nodes}
    tail, crossing = build_tail(graph, layer)
    assert set(crossing) == ({"right"} if layer == "left" else set())
    logits, *taps = Trunk(network, PREPROCESSING, layers).requires_grad_(True)(random_pixels(3))
    seed = torch.randn(logits.shape)
    activations = dict(zip(layers, taps, strict=True))
    (expected,) = torch.autograd.grad((logits * seed).sum(), activations[layer])
    feeds = {name: activations[name].detach().numpy() for name in crossing}
    outputs = run(tail, feeds | {"activations": activations[layer].detach().numpy(), "seed": seed.numpy()})
    np.testing.assert_allclose(outputs["logits"], logits.detach().numpy(), atol=1e-5)
    assert difference(outputs["gradients"], expected.numpy()) < 1e-5


class Unpooled(nn.Module):
    """Pooling with indices, a convolution, and the inverse of the pooling, which torch writes for all images in one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.middle = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        y, indices = self.pool(self.stem(x))
        return self.unpool(self.middle(y), indices)


def test_zeros_of_all_images_are_computed_in_the_tail() -> None:
    graph = Graph(trace(Unpooled(), PREPROCESSING, ("stem",)))
    assert build_tail(graph, "stem")[1] == ()


def test_layer_that_is_bypassed_by_rows_of_all_images_has_no_tail() -> None:
    """The indices of the pooling, which torch writes as one list for the whole batch."""
    graph = Graph(trace(Unpooled(), PREPROCESSING, ("middle",)))
    with pytest.raises(UnsupportedOperator, match="not one row for each image"):
        build_tail(graph, "middle")


class Nested(nn.Module):
    """Modules that return the same tensor, single cells, vectors, and one whose name a tail needs for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Identity())
        self.seed = nn.Conv2d(4, 4, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.head(self.pool(self.seed(self.body(x))).flatten(1))


def test_feature_maps_are_those_of_outermost_modules() -> None:
    """Each tensor once, in the order of computation; the logits of a segmenter are not a feature map."""
    assert find_feature_maps(Nested(), PREPROCESSING) == {"body": Nesting(blocks=0, modules=0)}
    segmenter = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert find_feature_maps(segmenter, PREPROCESSING) == {"0": Nesting(), "1": Nesting()}


class InPlaceRelu(nn.Module):
    """A ReLU in place after its first layer, as in DenseNet; its result is `used` or ignored."""

    def __init__(self, used: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5)
        self.used = used

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        x = self.features(x)
        y = F.relu(x, inplace=True)
        return self.head((y if self.used else x).mean((2, 3)))


def test_layer_is_tapped_before_a_relu_in_place() -> None:
    """In torch and in ONNX alike; its gradient is zero where the ReLU is."""
    network = InPlaceRelu().eval()
    pixels = random_pixels(2)
    logits, tap = Trunk(network, PREPROCESSING, ("features",)).requires_grad_(True)(pixels)
    assert tap.min() < 0
    trunk = trace(network, PREPROCESSING, ("features",))
    np.testing.assert_allclose(run(trunk, {"pixels": pixels.numpy()})["features"], tap.detach().numpy(), atol=1e-5)
    (g,) = torch.autograd.grad(logits.sum(), tap)
    tail, _ = build_tail(Graph(trunk), "features")
    seed = np.ones(logits.shape, np.float32)
    outputs = run(tail, {"activations": tap.detach().numpy(), "seed": seed})
    np.testing.assert_allclose(outputs["gradients"], g.numpy(), atol=1e-6)
    assert not g[tap < 0].any()


class InPlaceSum(nn.Module):
    """A sum and a product in place after its first layer, as in ResNet after the last normalization."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        y = self.first(x)
        y += self.second(x)
        y *= 2
        return self.head(torch.relu(y).mean((2, 3)))


def test_layer_is_tapped_before_a_sum_in_place() -> None:
    """In torch and in ONNX alike."""
    network = InPlaceSum().eval()
    pixels = random_pixels(2)
    trunk = Trunk(network, PREPROCESSING, ("first",))
    with torch.no_grad():
        expected = network.first(trunk.normalized(pixels))
        torch.testing.assert_close(trunk(pixels)[1], expected)
    outputs = run(trace(network, PREPROCESSING, ("first",)), {"pixels": pixels.numpy()})
    np.testing.assert_allclose(outputs["first"], expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(outputs["logits"], network(trunk.normalized(pixels)).detach().numpy(), atol=1e-5)


def test_network_that_relies_on_in_place_operations_is_refused() -> None:
    with pytest.raises(ValueError, match="in-place"):
        trace(InPlaceRelu(used=False).eval(), PREPROCESSING, ("features",))


class Flattened(nn.Module):
    """A network that flattens with `view`, which only contiguous tensors allow."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 4, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(4 * 8 * 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        x = self.stem(x.view(x.size(0), -1, *x.shape[2:]))
        return self.head(x.view(-1, 4 * 8 * 6))


@pytest.mark.parametrize(("channels", "count"), [("GRAY", 1), ("RGB", 3), ("RGBA", 4)])
def test_network_that_calls_view_is_traced(channels: Channels, count: int) -> None:
    network = Flattened(count).eval()
    rule = Preprocessing(height=32, width=24, channels=channels)
    pixels = example_pixels(rule)
    with torch.no_grad():
        expected = network(pixels.float().permute(0, 3, 1, 2).contiguous())
    outputs = run(trace(network, rule, ("image", "stem")), {"pixels": pixels.numpy()})
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_network_with_logits_that_are_not_finite_is_refused(value: float) -> None:
    head = nn.Linear(4, 2)
    head.bias.data[0] = value
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    with pytest.raises(ValueError, match="logits are NaN or infinite"):
        trace(network, PREPROCESSING, ["image"])


def test_network_for_another_size_that_mixes_rows_is_rejected() -> None:
    rule = Preprocessing(height=64, width=48)
    with pytest.raises(ValueError, match="returns 8 rows for 2 images: it is for images of another --size"):
        trace(Flattened(3), rule, ())


class Copy(nn.Module):
    """Returns a new tensor with the values of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return x.clone()


@pytest.mark.parametrize("first", [nn.Identity(), nn.Dropout(), torch.ao.quantization.QuantStub(), Copy()])
def test_module_that_returns_its_input_is_no_layer(first: nn.Module) -> None:
    """Neither in front nor in the middle: one tensor has one name."""
    stages = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(first, nn.ReLU(), first), nn.Conv2d(4, 4, 3))
    network = nn.Sequential(first, stages, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    maps = find_feature_maps(network, PREPROCESSING)
    graph = Graph(trace(network, PREPROCESSING, ("image", *maps)))
    names = [name for name in graph.outputs if name != "logits"]
    assert names[0] == "image"
    assert len(names) == len(set(names)) == 4, "the image, both convolutions and the ReLU"
    build_tail(graph, "image")
