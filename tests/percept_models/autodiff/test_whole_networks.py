"""Gradients of whole networks against three independent references: onnx-ad, PyTorch's autograd and pytorch-grad-cam.

onnx-ad is another implementation of reverse mode on the same ONNX graph, with its own rules. Weights are random and
images small. Most networks run under `make prove` only: each takes seconds to trace.
"""

from collections.abc import Iterable, Mapping
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

from percept.bundle.preprocessing import Preprocessing
from percept.explain.maps import normalize
from percept.imaging.geometry import compute_geometry, project_to_photo
from percept_models.autodiff.tail import LOGITS, build_tail
from percept_models.graph.execution import run
from percept_models.graph.reader import Array, Graph
from percept_models.sources.trunk import PIXELS, Trunk, trace
from percept_models.verify.checks import GRADIENT_LIMIT, LIMIT, difference
from tests.method_runs import GRADIENT_METHODS
from tests.percept_models.grad_cam_reference import GRADIENT_CLASSES, MAP_LIMIT, rescale, run_grad_cam
from tests.percept_models.networks import NetworkCase, Pyramid, calibrate_batch_norm
from tests.percept_models.networks import torchvision_network as tv
from tests.percept_models.onnx_models import with_outputs

IMAGES = 4
# The layers have a ReLU: XGrad-CAM divides by the sums of their channels, which must not be rounding errors.
NETWORKS: Mapping[str, NetworkCase] = {
    "squeezenet": NetworkCase(tv("squeezenet1_1"), 65, ("features.4", "features.12")),
    "resnet": NetworkCase(tv("resnet18"), 64, ("layer2", "layer4")),
    "pyramid": NetworkCase(Pyramid, 64, ("stage2", "merge")),
    "convnext": NetworkCase(tv("convnext_tiny"), 64),
    "deeplabv3": NetworkCase(tv("deeplabv3_mobilenet_v3_large", weights_backbone=None), 33),
    "densenet": NetworkCase(tv("densenet121"), 64, ("features.transition1.relu", "features.transition3.relu")),
    "efficientnet": NetworkCase(tv("efficientnet_b0"), 64, ("features.3", "features.8")),
    "fcn": NetworkCase(tv("fcn_resnet50", weights_backbone=None), 33),
    "googlenet": NetworkCase(tv("googlenet", aux_logits=False, init_weights=False), 64, ("inception3a", "inception5b")),
    "inception_v3": NetworkCase(tv("inception_v3", aux_logits=False, init_weights=False), 80),
    "lraspp": NetworkCase(tv("lraspp_mobilenet_v3_large", weights_backbone=None), 33),
    "mobilenet_v2": NetworkCase(tv("mobilenet_v2"), 64, ("features.4.conv.1", "features.18")),
    "mobilenet_v3": NetworkCase(tv("mobilenet_v3_small"), 64),
    "resnext": NetworkCase(tv("resnext50_32x4d"), 64),
}
# AlexNet and VGG agree too, but onnx-ad folds their linear layers for 14 and 46 s.
QUICK = {"squeezenet", "resnet", "pyramid"}


def networks(names: Iterable[str]) -> pytest.MarkDecorator:
    """Parametrize a test over networks; those that are not quick run under `make prove`."""
    rows = [pytest.param(name, marks=() if name in QUICK else pytest.mark.prove) for name in names]
    return pytest.mark.parametrize("traced", rows, indirect=True)


class TracedNetwork(NamedTuple):
    """A torch network, its ONNX trunk, and the name of the first tensor after the normalization."""

    network: nn.Module
    layers: tuple[str, ...]
    preprocessing: Preprocessing
    model: ModelProto
    graph: Graph
    image: str

    def pixels(self, n: int) -> torch.Tensor:
        """Random pixels uint8 [n,H,W,3]."""
        shape = (n, self.preprocessing.height, self.preprocessing.width, 3)
        return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))

    def normalized(self, n: int) -> torch.Tensor:
        """The same images as the network receives them, [n,3,H,W]."""
        mean, std = (torch.tensor(v) for v in (self.preprocessing.mean, self.preprocessing.std))
        return ((self.pixels(n).float() - mean) / std).permute(0, 3, 1, 2).contiguous()

    def seed(self, n: int) -> Array:
        """A random seed for n images."""
        shape = (n, *(size or 0 for size in self.graph.shapes[LOGITS][1:]))
        return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def traced(request: pytest.FixtureRequest) -> TracedNetwork:
    """One traced network; only one is held in memory at a time."""
    torch.manual_seed(0)
    make, size, layers = NETWORKS[request.param]
    network = calibrate_batch_norm(make(), size)
    preprocessing = Preprocessing(height=size, width=size, mean=(120.0, 115.0, 100.0), std=(60.0, 61.0, 62.0))
    model = trace(network, preprocessing, layers)
    graph = Graph(model)
    first = next(node for node in graph.nodes if node.op_type == "Conv")
    return TracedNetwork(network, layers, preprocessing, model, graph, first.input[0])


# onnx-ad


def with_fixed_batch(model: ModelProto, cut: str) -> ModelProto:
    """The part from a tensor to the logits for a batch of one: onnx-ad does not support a symbolic batch.

    Some of its rules need sizes that only a fixed batch makes constant.
    """
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for value in [*fixed.graph.input, *fixed.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del fixed.graph.value_info[:]
    fixed = optimizer.optimize(onnx.shape_inference.infer_shapes(fixed, data_prop=True))
    return onnx.utils.Extractor(onnx.shape_inference.infer_shapes(fixed)).extract_model([cut], [LOGITS])


@networks(NETWORKS)
def test_gradients_are_those_of_onnx_ad(traced: TracedNetwork) -> None:
    """With respect to the image, through the whole network, for a random seed."""
    model = with_fixed_batch(traced.model, traced.image)
    reference = onnx_ad.reverse(model, inputs=[traced.image], outputs=[LOGITS], layout="onnx")
    size = (1, 3, traced.preprocessing.height, traced.preprocessing.width)
    x, seed = np.random.default_rng(2).normal(size=size).astype(np.float32), traced.seed(1)
    image, direction = (value.name for value in reference.graph.input)
    expected = run(reference, {image: x, direction: seed[..., None]})
    found = run(build_tail(traced.graph, traced.image)[0], {"activations": x, "seed": seed})
    assert difference(found["logits"], expected[LOGITS]) < GRADIENT_LIMIT
    assert difference(found["gradients"], expected[reference.graph.output[-1].name][..., 0]) < GRADIENT_LIMIT


@networks(["squeezenet"])
def test_onnx_ad_rejects_symbolic_batch(traced: TracedNetwork) -> None:
    """So it can serve as a reference only: a bundle has a symbolic batch."""
    model = onnx.utils.Extractor(traced.graph.model).extract_model([traced.image], [LOGITS])
    with pytest.raises(onnx_ad.UnsupportedOperator, match="declared input shape"):
        onnx_ad.reverse(model, layout="onnx")


# PyTorch


@networks(NETWORKS)
def test_gradients_of_image_are_autograds(traced: TracedNetwork) -> None:
    """For at least one image: for others rounding may switch a ReLU on the path."""
    seed = traced.seed(IMAGES)
    network = Trunk(traced.network, traced.preprocessing, ()).network
    x = traced.normalized(IMAGES).requires_grad_()
    logits = network(x)
    logits = logits["out"] if isinstance(logits, Mapping) else logits
    (expected,) = torch.autograd.grad((logits * torch.from_numpy(seed)).sum(), x)
    tail, crossing = build_tail(traced.graph, traced.image)
    assert crossing == ()
    found = run(tail, {"activations": x.detach().numpy(), "seed": seed})
    errors = [difference(a, b) for a, b in zip(found["gradients"], expected.numpy(), strict=True)]
    assert min(errors) < GRADIENT_LIMIT


# pytorch-grad-cam


@networks(name for name, case in NETWORKS.items() if case.layers)
def test_maps_are_those_of_pytorch_grad_cam(traced: TracedNetwork) -> None:
    """Gradients and final maps at two layers, for at least one image: rounding may switch a ReLU after them."""
    assert len(traced.layers) == 2
    for layer in traced.layers:
        A, g = activations_and_gradients(traced, layer)
        for method in GRADIENT_CLASSES:
            errors = [map_errors(traced, layer, method, i, A[i], g[i]) for i in range(IMAGES)]
            assert [e for e in errors if e[0] < GRADIENT_LIMIT and e[1] < MAP_LIMIT], (layer, method, errors)


def activations_and_gradients(traced: TracedNetwork, layer: str) -> tuple[Array, Array]:
    """Activations and gradients [N,C,h,w] of the images, as a bundle computes them."""
    tail, crossing = build_tail(traced.graph, layer)
    found = run(with_outputs(traced.model, crossing), {PIXELS: traced.pixels(IMAGES).numpy()})
    feeds = {name: found[name] for name in crossing} | {"activations": found[layer], "seed": traced.seed(IMAGES)}
    return found[layer], run(tail, feeds)["gradients"]


def map_errors(traced: TracedNetwork, layer: str, method: str, i: int, A: Array, g: Array) -> tuple[float, float]:
    """The errors of the gradients and of the map of image i; infinite where the reference's map is empty."""
    network = Trunk(traced.network, traced.preprocessing, ()).network
    x, seed = traced.normalized(IMAGES)[i : i + 1], traced.seed(IMAGES)[i : i + 1]
    expected = run_grad_cam(network, layer, x, seed, GRADIENT_CLASSES[method])
    assert difference(A, expected.activations) < LIMIT
    geometry = compute_geometry(expected.final.shape[::-1], traced.preprocessing)
    heat = rescale(project_to_photo(normalize(GRADIENT_METHODS[method](A, g)), geometry))
    error = float(np.abs(heat - expected.final).max()) if expected.final.any() else inf
    return difference(g, expected.gradients), error
