"""How a network is written down, and that its tail can follow."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from percept_models.autodiff.reverse import tail
from percept_models.graph.reader import Graph, run
from percept_models.sources.tracing_modes import adaptive_average
from percept_models.sources.trunk import Trunk, candidates, scores, trace
from percept_models.verify.checks import difference
from tests.percept_models.networks import HOW


@pytest.mark.parametrize("size", [1, 2, 3, 7, (6, None), [1, 4]])
@pytest.mark.parametrize("n", [2, 5, 9])
def test_adaptive_pooling_is_pytorchs(n: int, size: int | tuple[int, int | None]) -> None:
    """Whether cells are whole windows, overlap, or are more than there were."""
    x = torch.randn(2, 3, n, n + 1)
    torch.testing.assert_close(adaptive_average(x, size), F.adaptive_avg_pool2d(x, size))


class Head(nn.Module):
    """What comes late in networks: uneven pooling, merging by a new axis, a choice by comparison, flattening."""

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
def test_sizes_and_stacks_from_before_the_cut_are_made_anew(layer: str) -> None:
    """What crosses the cut has a batch axis, and the gradient is PyTorch's."""
    network = Head().eval()
    layers = ("stem", "left", "right", "pool")
    graph = Graph(trace(network, HOW, layers))
    assert not {"Gather", "GatherND"} & {node.op_type for node in graph.nodes}
    made, names = tail(graph, layer)
    assert set(names) == ({"right"} if layer == "left" else set())
    pixels = torch.randint(0, 256, (3, HOW.height, HOW.width, 3), dtype=torch.uint8)
    logits, *taps = Trunk(network, HOW, layers).requires_grad_(True)(pixels)
    seed = torch.randn(logits.shape)
    tap = dict(zip(layers, taps, strict=True))
    (expected,) = torch.autograd.grad((logits * seed).sum(), tap[layer])
    feeds = {name: tap[name].detach().numpy() for name in names}
    answer = run(made, feeds | {"activations": tap[layer].detach().numpy(), "seed": seed.numpy()})
    np.testing.assert_allclose(answer["logits"], logits.detach().numpy(), atol=1e-5)
    assert difference(answer["gradients"], expected.numpy()) < 1e-5


class Named(nn.Module):
    """Modules that give one tensor, no tensor, vectors, single cells, and what is called as a trunk's output is."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Identity())
        self.seed = nn.Conv2d(4, 4, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.head(self.pool(self.seed(self.body(x))).flatten(1))


def test_candidates_are_the_outermost_modules_that_give_maps() -> None:
    """Each tensor once, in the order of computation; a segmenter's logits are no candidate."""
    assert candidates(Named(), HOW) == {"body": 0}
    assert candidates(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), HOW) == {"0": 0, "1": 0}


def test_logits_are_found_in_what_networks_answer() -> None:
    """Dictionaries, tuples with what only training needs, and masks of one channel."""
    y = torch.randn(2, 3, 4, 5)
    for answer in (y, {"out": y, "aux": 0}, {"logits": y}, (y, y + 1), [y]):
        assert scores(answer) is y
    both = scores(y[:, :1])
    torch.testing.assert_close(both.softmax(1)[:, 1], y[:, 0].sigmoid())
    for answer in ({"boxes": y}, [{"boxes": y}], None, ()):
        with pytest.raises(ValueError, match="not with a tensor"):
            scores(answer)


class Overwritten(nn.Module):
    """What DenseNet does to its features."""

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


def test_a_layer_is_tapped_before_it_is_overwritten() -> None:
    """In PyTorch and in ONNX alike, and its gradient is closed where the ReLU is."""
    network = Overwritten().eval()
    pixels = torch.randint(0, 256, (2, HOW.height, HOW.width, 3), dtype=torch.uint8)
    logits, tap = Trunk(network, HOW, ("features",)).requires_grad_(True)(pixels)
    assert tap.min() < 0
    model = trace(network, HOW, ("features",))
    found = run(model, {"pixels": pixels.numpy()})["features"]
    np.testing.assert_allclose(found, tap.detach().numpy(), atol=1e-5)
    (g,) = torch.autograd.grad(logits.sum(), tap)
    made, _ = tail(Graph(model), "features")
    seed = np.ones(logits.shape, np.float32)
    answer = run(made, {"activations": tap.detach().numpy(), "seed": seed})
    np.testing.assert_allclose(answer["gradients"], g.numpy(), atol=1e-6)
    assert not g[tap < 0].any()


class Residual(nn.Module):
    """What ResNet does to the output of its last normalization."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        y = self.one(x)
        y += self.two(x)
        y *= 2
        return self.head(torch.relu(y).mean((2, 3)))


def test_a_layer_is_tapped_before_something_is_added_to_it() -> None:
    """In PyTorch and in ONNX alike."""
    network = Residual().eval()
    pixels = torch.randint(0, 256, (2, HOW.height, HOW.width, 3), dtype=torch.uint8)
    trunk = Trunk(network, HOW, ("one",))
    with torch.no_grad():
        expected = network.one(trunk.prepared(pixels))
        torch.testing.assert_close(trunk(pixels)[1], expected)
    model = trace(network, HOW, ("one",))
    found = run(model, {"pixels": pixels.numpy()})
    np.testing.assert_allclose(found["one"], expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(found["logits"], network(trunk.prepared(pixels)).detach().numpy(), atol=1e-5)


def test_a_network_that_needs_to_overwrite_is_refused() -> None:
    """It would compute something else without."""
    with pytest.raises(ValueError, match="in place"):
        trace(Overwritten(used=False).eval(), HOW, ("features",))
