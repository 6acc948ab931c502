"""A network with random weights, asked in Percept's way of ONNX tails and in pytorch-grad-cam's of torch.

Both get the same weights, picture and seed; what comes out is two maps, to be compared by the tests.
"""

from collections.abc import Callable
from contextlib import nullcontext
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from percept.bundle.manifest import Preprocessing
from percept.explain.maps import normalize
from percept.explain.methods import METHODS
from percept.explain.protocol import MethodInput, NetworkRequest, PassResult, TailRequest, run_method
from percept.imaging.geometry import compute_geometry, project_to_photo
from percept.runtime.session import Session
from percept_models.autodiff.tail import LOGITS, build_tail
from percept_models.graph.reader import Array, Graph
from percept_models.sources.tracing_modes import OutOfPlace
from percept_models.sources.trunk import PIXELS, Trunk, trace
from percept_models.verify.checks import GRADIENT_LIMIT, LIMIT, difference
from tests.percept_models.autodiff.test_oracle import tapped, zoo
from tests.percept_models.networks import Classifier, Pyramid, settled
from tests.percept_models.torch_gradients import Reference, _SeedTarget, explain, grad_cam, scaled

# Of random pixels, on whose like the normalizations are settled. The mean is of whole numbers, so that the blank colour
# is the network's zero in pixels too.
MEAN, STD = (128.0, 127.0, 128.0), (74.0, 73.0, 75.0)
PICTURES = 8  # looked through for one on which rounding switches no ReLU
NAMES = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "ablationcam": "AblationCAM",
    "scorecam": "ScoreCAM",
}


class Row(NamedTuple):
    """A network, the size of its picture, and its layers, the first of at most `MAX_CHANNELS` channels."""

    make: Callable[[], nn.Module]
    size: int
    layers: tuple[str, ...]


def smp(name: str) -> Callable[[], nn.Module]:
    """A factory of one of segmentation_models_pytorch's networks."""
    return lambda: getattr(__import__("segmentation_models_pytorch"), name)("resnet18", encoder_weights=None, classes=4)


# An earlier stage and the last one before the head. In ConvNeXt the earlier one is not at the end of its stage: see
# `test_hirescam_is_nothing_before_a_normalization_over_channels`.
ROWS = {
    "squeezenet": Row(zoo("squeezenet1_1"), 65, ("features.4", "features.12")),
    "resnet": Row(zoo("resnet18"), 64, ("layer2", "layer4")),
    "pyramid": Row(Pyramid, 64, ("stage2", "merge")),
    "vgg": Row(zoo("vgg11"), 64, ("features.4", "features.19")),
    "densenet": Row(zoo("densenet121"), 64, ("features.relu0", "features")),
    "mobilenet": Row(zoo("mobilenet_v2"), 64, ("features.2.conv.1", "features.18")),
    "convnext": Row(zoo("convnext_tiny", layer_scale=0.5), 64, ("features.1.1", "features.7")),
    "efficientnet": Row(zoo("efficientnet_b0"), 64, ("features.3", "features.8")),
    "unet": Row(smp("Unet"), 64, ("encoder.layer2", "decoder.blocks.1.conv2")),
    "fpn": Row(smp("FPN"), 64, ("encoder.layer1", "decoder.seg_blocks.1")),
}
SEGMENTERS = ("pyramid", "unet", "fpn")
QUICK = {"squeezenet", "resnet", "pyramid"}
# Layers at which one of the two is at fault, or neither.
TRAPS = {
    "signed": Row(Classifier, 32, ("stage1.body.2",)),  # can be negative, and is added to something before its ReLU
    "overwritten": Row(zoo("resnet18"), 64, ("layer2.1.bn2",)),
    "normalized": Row(zoo("convnext_tiny", layer_scale=0.5), 64, ("features.1",)),
    "batched": Row(smp("FPN"), 64, ("decoder.seg_blocks.3",)),
}


def lively(network: nn.Module) -> nn.Module:
    """He's weights by fan-in: with torchvision's own the signal fades in depthwise convolutions."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return network


class Subject:
    """A network with random weights, one picture, and a seed by which y is positive.

    The picture is the first on which the gradients at all layers are torch's: rounding alone puts the input of a ReLU
    on the other side of 0 every now and then, but a wrong rule is wrong on every picture.
    """

    def __init__(self, row: Row) -> None:
        torch.manual_seed(0)
        network = settled(lively(row.make()), row.size)
        self.row = row
        self.how = Preprocessing(height=row.size, width=row.size, mean=MEAN, std=STD)
        model = trace(network, self.how, row.layers)
        self.network = Trunk(network, self.how, ()).network
        cut = {layer: build_tail(Graph(model), layer) for layer in row.layers}
        self.tails = {layer: (Session(one.SerializeToString()), names) for layer, (one, names) in cut.items()}
        crossing = tuple(name for _, names in self.tails.values() for name in names)
        self.trunk = Session(tapped(model, crossing).SerializeToString())
        self.asked: list[Array] = []
        if not any(max(map(self.parted, row.layers)) < GRADIENT_LIMIT for _ in map(self.look, range(PICTURES))):
            raise AssertionError("the gradients are torch's on no picture")

    def look(self, picture: int) -> None:
        """Turn to another picture."""
        self.pixels = np.random.default_rng(picture).integers(0, 256, (self.row.size, self.row.size, 3), np.uint8)
        self.seen = self.trunk.run({PIXELS: self.pixels[None]}, list(self.trunk.outputs))
        self.seed = _region(self.seen[LOGITS]) if self.seen[LOGITS].ndim == 4 else _direction(self.seen[LOGITS])
        self.seed *= np.sign((self.seed * self.seen[LOGITS]).sum())

    def parted(self, layer: str) -> float:
        """How far the gradients at a layer are from torch's."""
        return difference(self.gradients(layer), self.stored(layer).gradients[None])

    def signed(self, layer: str) -> bool:
        """Whether the layer can be negative."""
        return bool(self.seen[layer].min() < 0)

    def gradients(self, layer: str) -> Array:
        """Percept's g, [1,C,h,w]."""
        return self.by_tail(layer, self.seed, TailRequest(self.seen[layer], gradients=True)).g

    def raw(self, method: str, layer: str, seed: Array | None = None) -> Array:
        """Percept's map before ReLU; `asked` keeps the pictures that it was made of."""
        seed = self.seed if seed is None else seed
        y = float((seed * self.seen[LOGITS]).sum())
        scene = MethodInput(self.seen[layer][0], self.pixels, y, np.random.default_rng(0), MEAN)
        self.asked = []
        return run_method(
            METHODS[method].run(scene),
            lambda ask: self.by_tail(layer, seed, ask),
            lambda ask: self.by_trunk(seed, ask),
        )

    def by_tail(self, layer: str, seed: Array, ask: TailRequest) -> PassResult:
        """What the tail answers."""
        session, crossing = self.tails[layer]
        other = {"seed": seed} | {name: self.seen[name] for name in crossing}
        feeds = {name: np.repeat(one, len(ask.activations), 0) for name, one in other.items()}
        found = session.run({"activations": ask.activations, **feeds}, ["logits", "gradients"])
        return PassResult(_sums(seed * found["logits"]), found["gradients"] if ask.gradients else None)

    def by_trunk(self, seed: Array, ask: NetworkRequest) -> PassResult:
        """What the trunk answers."""
        self.asked.append(ask.pixels)
        return PassResult(_sums(seed * self.trunk.run({PIXELS: ask.pixels}, [LOGITS])[LOGITS]))

    def laid(self, cells: Array) -> Array:
        """A map over the picture."""
        return project_to_photo(cells, compute_geometry((self.row.size, self.row.size), self.how))

    def shown(self, raw: Array) -> Array:
        """Percept's final map, as large as the picture."""
        return scaled(self.laid(normalize(raw)))

    def truth(
        self,
        method: str,
        *layers: str,
        target: Callable[[torch.Tensor], torch.Tensor] | None = None,
        first: nn.Module | None = None,
        in_place: bool = False,
        **more: Any,
    ) -> Array:
        """The reference's final map, of the seed or another target.

        `first` stands before its network; `in_place` lets it overwrite what it has stored, as networks do.
        """
        network = nn.Sequential(first, self.network) if first else self.network
        targets = [self.network.get_submodule(layer) for layer in layers]
        with getattr(grad_cam(), NAMES[method])(model=network, target_layers=targets, **more) as cam:
            with nullcontext() if in_place else OutOfPlace():
                found = cam(input_tensor=self.input, targets=[target or _SeedTarget(self.seed[0])])[0]
            for layer, A in zip(layers, cam.activations_and_grads.activations, strict=False):
                assert in_place or difference(self.seen[layer], A.numpy()) < LIMIT
        return found

    def stored(self, layer: str, network: nn.Module | None = None) -> Reference:
        """The reference's own A, g and Grad-CAM, of the network or of another by its numbers."""
        network = network or self.network
        x = self.input.to(next(network.parameters()).dtype)
        with OutOfPlace():
            return explain(network, layer, x, self.seed[0], "GradCAM")

    @property
    def input(self) -> torch.Tensor:
        """What the torch network takes for the picture, [1,3,H,W]."""
        x = (torch.from_numpy(self.pixels).float() - torch.tensor(MEAN)) / torch.tensor(STD)
        return x.permute(2, 0, 1)[None].contiguous()


class Rounding(nn.Module):
    """Normalised pictures as if they had been made of whole pixels.

    A pixel in the middle between two numbers, to a thousandth, may be either: a picture goes where it went in one of
    `others`, uint8 [n,H,W,3].
    """

    def __init__(self, others: Array) -> None:
        super().__init__()
        self.others = torch.from_numpy(others).permute(0, 3, 1, 2).float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
        return (torch.stack([self.whole(picture) for picture in x * std + mean]) - mean) / std

    def whole(self, picture: torch.Tensor) -> torch.Tensor:
        """A picture [3,H,W], rounded."""
        off = (self.others - picture).abs().amax((1, 2, 3))
        return self.others[off.argmin()] if off.min() < 0.501 else picture.round()


def zeroing() -> nn.Module:
    """The reference's layer that takes a channel away, by zeros, of a module of any number of inputs."""

    class Zeroing(grad_cam().AblationLayer):
        def __call__(self, *_: torch.Tensor) -> torch.Tensor:
            for row, k in zip(self.activations, self.indices, strict=False):
                row[k] = 0
            return self.activations

    return Zeroing()


def apart(found: Array, expected: Array) -> float:
    """The greatest difference of two final maps; infinite where one is empty."""
    return float(np.abs(found - expected).max()) if found.any() and expected.any() else inf


def _direction(logits: Array) -> Array:
    """The logits themselves, of length 1: something of every class."""
    return logits / np.linalg.norm(logits)


def _region(logits: Array) -> Array:
    """The pixels of the class that has most of them."""
    winners = logits[0].argmax(0)
    k = np.bincount(winners.ravel()).argmax()
    seed = np.zeros_like(logits)
    seed[0, k] = winners == k
    return seed


def _sums(products: Array) -> Array:
    """The sum of each row."""
    return products.reshape(len(products), -1).sum(1)
