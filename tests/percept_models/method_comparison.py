"""Explain one network twice: by Percept with ONNX tails, and by pytorch-grad-cam with torch.

Both get the same weights, image and seed; out come two maps for the tests to compare.
"""

from collections.abc import Callable
from contextlib import nullcontext
from math import inf
from typing import Any

import numpy as np
import torch
from torch import nn

from percept.bundle.preprocessing import Preprocessing
from percept.explain.maps import normalize
from percept.explain.methods.protocol import MethodInput, NetworkRequest, PassResult, TailRequest
from percept.explain.methods.table import METHODS
from percept.imaging.geometry import compute_geometry, project_to_photo
from percept.runtime.session import Session
from percept_models.autodiff.tail import LOGITS, build_tail
from percept_models.graph.reader import Array, Graph
from percept_models.sources.tracing_modes import OutOfPlace
from percept_models.sources.trunk import PIXELS, Trunk, trace
from percept_models.verify.checks import GRADIENT_LIMIT, LIMIT, difference
from tests.method_runs import run_method
from tests.percept_models.grad_cam_reference import (
    CLASS_NAMES,
    GradCamResult,
    SeedTarget,
    grad_cam_package,
    rescale,
    run_grad_cam,
)
from tests.percept_models.networks import Classifier, NetworkCase, Pyramid, calibrate_batch_norm
from tests.percept_models.networks import torchvision_network as tv
from tests.percept_models.onnx_models import with_outputs

# The statistics of random pixels, with which the normalization layers are calibrated. The mean is of integers, so that
# the blank colour is the network's zero in pixels too.
MEAN, STD = (128.0, 127.0, 128.0), (74.0, 73.0, 75.0)
MAX_IMAGES = 8  # tried to find one on which rounding switches no ReLU


def smp(name: str) -> Callable[[], nn.Module]:
    """A factory of one of segmentation_models_pytorch's networks, without its weights."""
    return lambda: getattr(__import__("segmentation_models_pytorch"), name)("resnet18", encoder_weights=None, classes=4)


# The layers: one of an earlier stage with at most `MAX_CHANNELS` channels, and the last one before the head. In
# ConvNeXt the earlier one is not at the end of its stage: see `test_hirescam_vanishes_before_layer_normalization`.
NETWORKS = {
    "squeezenet": NetworkCase(tv("squeezenet1_1"), 65, ("features.4", "features.12")),
    "resnet": NetworkCase(tv("resnet18"), 64, ("layer2", "layer4")),
    "pyramid": NetworkCase(Pyramid, 64, ("stage2", "merge")),
    "vgg": NetworkCase(tv("vgg11"), 64, ("features.4", "features.19")),
    "densenet": NetworkCase(tv("densenet121"), 64, ("features.relu0", "features")),
    "mobilenet": NetworkCase(tv("mobilenet_v2"), 64, ("features.2.conv.1", "features.18")),
    "convnext": NetworkCase(tv("convnext_tiny", layer_scale=0.5), 64, ("features.1.1", "features.7")),
    "efficientnet": NetworkCase(tv("efficientnet_b0"), 64, ("features.3", "features.8")),
    "unet": NetworkCase(smp("Unet"), 64, ("encoder.layer2", "decoder.blocks.1.conv2")),
    "fpn": NetworkCase(smp("FPN"), 64, ("encoder.layer1", "decoder.seg_blocks.1")),
}
SEGMENTERS = ("pyramid", "unet", "fpn")
QUICK = {"squeezenet", "resnet", "pyramid"}
# Layers at which the two differ.
EDGE_CASES = {
    "signed": NetworkCase(Classifier, 32, ("stage1.body.2",)),  # negative in part, and added to another before a ReLU
    "overwritten": NetworkCase(tv("resnet18"), 64, ("layer2.1.bn2",)),
    "normalized": NetworkCase(tv("convnext_tiny", layer_scale=0.5), 64, ("features.1",)),
    "batched": NetworkCase(smp("FPN"), 64, ("decoder.seg_blocks.3",)),
}


def initialize_weights(network: nn.Module) -> nn.Module:
    """Set He's weights by fan-in: with torchvision's own the signal vanishes in depthwise convolutions."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return network


class MethodComparison:
    """A network with random weights, one image, and a seed for which y is positive.

    The image is the first on which the gradients at all layers are torch's: now and then rounding alone puts the input
    of a ReLU on the other side of 0, but a wrong rule is wrong on every image.
    """

    def __init__(self, case: NetworkCase) -> None:
        torch.manual_seed(0)
        network = calibrate_batch_norm(initialize_weights(case.make()), case.size)
        self.case = case
        self.preprocessing = Preprocessing(height=case.size, width=case.size, mean=MEAN, std=STD)
        model = trace(network, self.preprocessing, case.layers)
        self.network = Trunk(network, self.preprocessing, ()).network
        tails = {layer: build_tail(Graph(model), layer) for layer in case.layers}
        self._tails = {layer: (Session(tail.SerializeToString()), names) for layer, (tail, names) in tails.items()}
        crossing = [name for _, names in tails.values() for name in names]
        self._trunk = Session(with_outputs(model, crossing).SerializeToString())
        self.perturbed: list[Array] = []  # the images on which the last map was based
        for image in range(MAX_IMAGES):
            self.select_image(image)
            if max(map(self.gradient_error, case.layers)) < GRADIENT_LIMIT:
                return
        raise AssertionError("the gradients are torch's on no image")

    def select_image(self, image: int) -> None:
        """Compute the trunk outputs and the seed of another random image."""
        self.image = image
        self.pixels = np.random.default_rng(image).integers(0, 256, (self.case.size, self.case.size, 3), np.uint8)
        self.outputs = self._trunk.run({PIXELS: self.pixels[None]}, list(self._trunk.outputs))
        logits = self.outputs[LOGITS]
        self.seed = _region_seed(logits) if logits.ndim == 4 else _class_seed(logits)
        self.seed *= np.sign((self.seed * logits).sum())

    def gradient_error(self, layer: str) -> float:
        """The difference between the gradients at a layer and torch's."""
        return difference(self.gradients(layer), self.reference_gradients(layer).gradients[None])

    def is_signed(self, layer: str) -> bool:
        """Whether the layer has negative activations."""
        return bool(self.outputs[layer].min() < 0)

    def gradients(self, layer: str) -> Array:
        """Percept's g, [1,C,h,w]."""
        g = self._run_tail(layer, self.seed, TailRequest(self.outputs[layer], gradients=True)).g
        assert g is not None
        return g

    def raw(self, method: str, layer: str, seed: Array | None = None) -> Array:
        """Percept's map before ReLU."""
        seed = self.seed if seed is None else seed
        y = float((seed * self.outputs[LOGITS]).sum())
        method_input = MethodInput(self.outputs[layer][0], self.pixels, y, np.random.default_rng(0), MEAN)
        self.perturbed = []
        return run_method(
            METHODS[method].run(method_input),
            lambda request: self._run_tail(layer, seed, request),
            lambda request: self._run_network(seed, request),
        )

    def _run_tail(self, layer: str, seed: Array, request: TailRequest) -> PassResult:
        session, crossing = self._tails[layer]
        others = {"seed": seed} | {name: self.outputs[name] for name in crossing}
        feeds = {name: np.repeat(one, len(request.activations), 0) for name, one in others.items()}
        found = session.run({"activations": request.activations, **feeds}, ["logits", "gradients"])
        return PassResult(_row_sums(seed * found["logits"]), found["gradients"] if request.gradients else None)

    def _run_network(self, seed: Array, request: NetworkRequest) -> PassResult:
        self.perturbed.append(request.pixels)
        return PassResult(_row_sums(seed * self._trunk.run({PIXELS: request.pixels}, [LOGITS])[LOGITS]))

    def project(self, cells: Array) -> Array:
        """A map [h,w] in the size of the image."""
        return project_to_photo(cells, compute_geometry((self.case.size, self.case.size), self.preprocessing))

    def final_map(self, raw: Array) -> Array:
        """Percept's final map, in the size of the image and rescaled as the reference does."""
        return rescale(self.project(normalize(raw)))

    def reference_map(
        self,
        method: str,
        *layers: str,
        target: Callable[[torch.Tensor], torch.Tensor] | None = None,
        first: nn.Module | None = None,
        in_place: bool = False,
        **options: Any,
    ) -> Array:
        """The reference's final map, for the seed or another target.

        `first` is put before the network; `in_place` lets the network overwrite what the reference has recorded.
        """
        network = nn.Sequential(first, self.network) if first else self.network
        modules = [self.network.get_submodule(layer) for layer in layers]
        with getattr(grad_cam_package(), CLASS_NAMES[method])(model=network, target_layers=modules, **options) as cam:
            with nullcontext() if in_place else OutOfPlace():
                found = cam(input_tensor=self.input, targets=[target or SeedTarget(self.seed[0])])[0]
            for layer, A in zip(layers, cam.activations_and_grads.activations, strict=False):
                assert in_place or difference(self.outputs[layer], A.numpy()) < LIMIT
        return found

    def reference_gradients(self, layer: str, network: nn.Module | None = None) -> GradCamResult:
        """The reference's A, g and Grad-CAM, in the precision of the network or of another one."""
        network = network or self.network
        x = self.input.to(next(network.parameters()).dtype)
        with OutOfPlace():
            return run_grad_cam(network, layer, x, self.seed[0], "GradCAM")

    @property
    def input(self) -> torch.Tensor:
        """The image as the torch network receives it, [1,3,H,W]."""
        x = (torch.from_numpy(self.pixels).float() - torch.tensor(MEAN)) / torch.tensor(STD)
        return x.permute(2, 0, 1)[None].contiguous()


class RoundToPixels(nn.Module):
    """Normalized images as if they were made of whole pixel values.

    A value half-way between two integers, to a thousandth, may be rounded either way: an image is rounded as one of
    `others`, uint8 [n,H,W,3], where it is that close to it.
    """

    def __init__(self, others: Array) -> None:
        super().__init__()
        self.others = torch.from_numpy(others).permute(0, 3, 1, 2).float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
        return (torch.stack([self.round(image) for image in x * std + mean]) - mean) / std

    def round(self, image: torch.Tensor) -> torch.Tensor:
        """Round an image [3,H,W]."""
        distance = (self.others - image).abs().amax((1, 2, 3))
        return self.others[distance.argmin()] if distance.min() < 0.501 else image.round()


def zero_ablation() -> nn.Module:
    """A layer for the reference that ablates channels by zeros, after a module of any number of inputs."""

    class ZeroAblation(grad_cam_package().AblationLayer):  # type: ignore[misc]  # a class of a module imported late
        def __call__(self, *_: torch.Tensor) -> torch.Tensor:
            for row, k in zip(self.activations, self.indices, strict=False):
                row[k] = 0
            return self.activations

    return ZeroAblation()


def map_difference(found: Array, expected: Array) -> float:
    """The greatest difference of two final maps; infinite where one is empty."""
    return float(np.abs(found - expected).max()) if found.any() and expected.any() else inf


def _class_seed(logits: Array) -> Array:
    """The logits themselves, of length 1: a direction that contains every class."""
    return logits / np.linalg.norm(logits)


def _region_seed(logits: Array) -> Array:
    """The pixels of the most frequent class."""
    winners = logits[0].argmax(0)
    k = np.bincount(winners.ravel()).argmax()
    seed = np.zeros_like(logits)
    seed[0, k] = winners == k
    return seed


def _row_sums(products: Array) -> Array:
    return products.reshape(len(products), -1).sum(1)
