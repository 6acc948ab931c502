"""Whole networks of torchvision against three outsiders: onnx-ad, PyTorch's autograd and pytorch-grad-cam.

onnx-ad is another writer's reverse mode on the very same ONNX graph: what it makes of a rule knows nothing of ours.
Weights are random and pictures small. Most networks run under `make prove` only: each takes seconds to trace.
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ad
import pytest
import torch
from onnx import ModelProto
from onnxscript import optimizer
from torch import nn

from percept.bundle.manifest import Preprocessing
from percept.explain.maps import GRADIENT_METHODS, unit
from percept.imaging.decode import geometry, spread
from percept_models.autodiff.reverse import LOGITS, tail
from percept_models.graph.reader import Array, Graph, run
from percept_models.sources.trunk import PIXELS, Trunk, trace
from percept_models.verify.checks import GRADIENT_LIMIT, LIMIT, difference
from tests.percept_models.networks import Pyramid, settled
from tests.percept_models.torch_gradients import explain, scaled

PICTURES = 4
MAP_LIMIT = 1e-4


class Row(NamedTuple):
    """A network, the size of its pictures, and two layers whose channels do not add up to about nothing.

    XGrad-CAM divides by their sums: of a layer without a ReLU only rounding would be compared.
    """

    make: Callable[[], nn.Module]
    size: int
    layers: tuple[str, ...]


def zoo(name: str, **other: object) -> Callable[[], nn.Module]:
    """A factory of one of torchvision's networks."""
    return lambda: __import__("torchvision").models.get_model(name, weights=None, num_classes=7, **other)


ROWS: Mapping[str, Row] = {
    "squeezenet": Row(zoo("squeezenet1_1"), 65, ("features.4", "features.12")),
    "resnet": Row(zoo("resnet18"), 64, ("layer2", "layer4")),
    "pyramid": Row(Pyramid, 64, ("stage2", "merge")),
    "convnext": Row(zoo("convnext_tiny"), 64, ()),
    "deeplabv3": Row(zoo("deeplabv3_mobilenet_v3_large", weights_backbone=None), 33, ()),
    "densenet": Row(zoo("densenet121"), 64, ("features.transition1.relu", "features.transition3.relu")),
    "efficientnet": Row(zoo("efficientnet_b0"), 64, ("features.3", "features.8")),
    "fcn": Row(zoo("fcn_resnet50", weights_backbone=None), 33, ()),
    "googlenet": Row(zoo("googlenet", aux_logits=False, init_weights=False), 64, ("inception3a", "inception5b")),
    "inception_v3": Row(zoo("inception_v3", aux_logits=False, init_weights=False), 80, ()),
    "lraspp": Row(zoo("lraspp_mobilenet_v3_large", weights_backbone=None), 33, ()),
    "mobilenet_v2": Row(zoo("mobilenet_v2"), 64, ("features.4.conv.1", "features.18")),
    "mobilenet_v3": Row(zoo("mobilenet_v3_small"), 64, ()),
    "resnext": Row(zoo("resnext50_32x4d"), 64, ()),
}
# AlexNet and VGG agree too, but onnx-ad folds their linear layers for 14 and 46 s.
QUICK = {"squeezenet", "resnet", "pyramid"}
NAMES = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
}


def marked(names: list[str]) -> list[object]:
    """Parameters of which only the quick ones run in every test run."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.prove) for name in names]


class Traced(NamedTuple):
    """A network with what was made of it."""

    network: nn.Module
    layers: tuple[str, ...]
    how: Preprocessing
    model: ModelProto
    graph: Graph
    image: str

    def pictures(self, n: int) -> torch.Tensor:
        """Random pixels uint8 [n,H,W,3]."""
        shape = (n, self.how.height, self.how.width, 3)
        return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))

    def seed(self, n: int) -> Array:
        """A random seed for n pictures."""
        shape = (n, *(size or 0 for size in self.graph.shapes[LOGITS][1:]))
        return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def t(request: pytest.FixtureRequest) -> Traced:
    """A network of the table, and the name of the first tensor behind the normalisation; one at a time is held."""
    torch.manual_seed(0)
    make, size, layers = ROWS[request.param]
    network = settled(make(), size)
    how = Preprocessing(height=size, width=size, mean=(120.0, 115.0, 100.0), std=(60.0, 61.0, 62.0))
    model = trace(network, how, layers)
    graph = Graph(model)
    first = next(node for node in graph.nodes if node.op_type == "Conv")
    return Traced(network, layers, how, model, graph, first.input[0])


# onnx-ad


def frozen(model: ModelProto, cut: str) -> ModelProto:
    """The part from a tensor to the logits for one picture: onnx-ad cannot do with an open batch.

    Some of its rules need sizes that only a fixed batch makes constant.
    """
    one = ModelProto()
    one.CopyFrom(model)
    for value in [*one.graph.input, *one.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del one.graph.value_info[:]
    one = optimizer.optimize(onnx.shape_inference.infer_shapes(one, data_prop=True))
    return onnx.utils.Extractor(onnx.shape_inference.infer_shapes(one)).extract_model([cut], [LOGITS])


@pytest.mark.parametrize("t", marked(list(ROWS)), indirect=True)
def test_onnx_ad_gives_the_same_gradients(t: Traced) -> None:
    """With respect to the image, through the whole network, of one random seed."""
    other = onnx_ad.reverse(frozen(t.model, t.image), inputs=[t.image], outputs=[LOGITS], layout="onnx")
    size = (1, 3, t.how.height, t.how.width)
    x, seed = np.random.default_rng(2).normal(size=size).astype(np.float32), t.seed(1)
    image, direction = (value.name for value in other.graph.input)
    expected = run(other, {image: x, direction: seed[..., None]})
    answer = run(tail(t.graph, t.image)[0], {"activations": x, "seed": seed})
    assert difference(answer["logits"], expected[LOGITS]) < GRADIENT_LIMIT
    assert difference(answer["gradients"], expected[other.graph.output[-1].name][..., 0]) < GRADIENT_LIMIT


@pytest.mark.parametrize("t", ["squeezenet"], indirect=True)
def test_onnx_ad_refuses_an_open_batch(t: Traced) -> None:
    """So it is an oracle only: a bundle has an open batch."""
    with pytest.raises(onnx_ad.UnsupportedOperator, match="declared input shape"):
        onnx_ad.reverse(onnx.utils.Extractor(t.graph.model).extract_model([t.image], [LOGITS]), layout="onnx")


# PyTorch


@pytest.mark.parametrize("t", marked(list(ROWS)), indirect=True)
def test_gradients_reach_the_image(t: Traced) -> None:
    """They are autograd's, on a picture at least where rounding switches no ReLU on the way."""
    pixels, seed = t.pictures(PICTURES), t.seed(PICTURES)
    network = Trunk(t.network, t.how, ()).network
    x = normalised(pixels, t.how).requires_grad_()
    logits = network(x)
    logits = logits["out"] if isinstance(logits, Mapping) else logits
    (truth,) = torch.autograd.grad((logits * torch.from_numpy(seed)).sum(), x)
    made, crossing = tail(t.graph, t.image)
    assert crossing == ()
    answer = run(made, {"activations": x.detach().numpy(), "seed": seed})
    errors = [difference(a, b) for a, b in zip(answer["gradients"], truth.numpy(), strict=True)]
    assert min(errors) < GRADIENT_LIMIT


def normalised(pixels: torch.Tensor, how: Preprocessing) -> torch.Tensor:
    """What the network gets to see, [N,3,H,W]."""
    return ((pixels.float() - torch.tensor(how.mean)) / torch.tensor(how.std)).permute(0, 3, 1, 2).contiguous()


# pytorch-grad-cam


@pytest.mark.parametrize("t", marked([name for name, row in ROWS.items() if row.layers]), indirect=True)
def test_maps_are_those_of_pytorch_grad_cam(t: Traced) -> None:
    """Gradients and final maps at two layers, on a picture at least where rounding switches no ReLU behind them."""
    assert len(t.layers) == 2
    for layer in t.layers:
        A, g = seen(t, layer)
        for method in NAMES:
            errors = [compared(t, layer, method, i, A[i], g[i]) for i in range(PICTURES)]
            assert [e for e in errors if e[0] < GRADIENT_LIMIT and e[1] < MAP_LIMIT], (layer, method, errors)


def compared(t: Traced, layer: str, method: str, i: int, A: Array, g: Array) -> tuple[float, float]:
    """How far the gradients and the map of picture i are from the reference; infinite where a map is empty."""
    network = Trunk(t.network, t.how, ()).network
    x, seed = normalised(t.pictures(PICTURES), t.how)[i : i + 1], t.seed(PICTURES)[i : i + 1]
    truth = explain(network, layer, x, seed, NAMES[method])
    assert difference(A, truth.activations) < LIMIT
    heat = scaled(spread(unit(GRADIENT_METHODS[method](A, g)), geometry(truth.final.shape[::-1], t.how)))
    apart = float(np.abs(heat - truth.final).max()) if truth.final.any() else inf
    return difference(g, truth.gradients), apart


def seen(t: Traced, layer: str) -> tuple[Array, Array]:
    """Activations and gradients [N,C,h,w] of the pictures, as a bundle gives them."""
    made, crossing = tail(t.graph, layer)
    found = run(tapped(t.model, crossing), {PIXELS: t.pictures(PICTURES).numpy()})
    feeds = {name: found[name] for name in crossing} | {"activations": found[layer], "seed": t.seed(PICTURES)}
    return found[layer], run(made, feeds)["gradients"]


def tapped(model: ModelProto, names: tuple[str, ...]) -> ModelProto:
    """The trunk with more tensors as outputs."""
    more = ModelProto()
    more.CopyFrom(model)
    known = {value.name for value in more.graph.output}
    more.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    return more
