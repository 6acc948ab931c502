"""Small networks with random weights, and their export as a bundle, for the tests of the export toolchain."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from percept.bundle.integrity import digest
from percept.bundle.manifest import Provenance
from percept.bundle.preprocessing import Preprocessing
from percept_models.export.bundle_writer import BundleDescription, write_bundle
from percept_models.sources.libraries import import_torchvision
from percept_models.sources.trunk import trace

PREPROCESSING = Preprocessing(height=32, width=24, mean=(120.0, 115.0, 100.0), std=(60.0, 61.0, 62.0))


def random_pixels(batch: int) -> Tensor:
    """Random pixels uint8 [batch,H,W,3]."""
    return torch.randint(0, 256, (batch, PREPROCESSING.height, PREPROCESSING.width, 3), dtype=torch.uint8)


class Block(nn.Module):
    """relu(x + f(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.act(x + self.body(x))


class Classifier(nn.Module):
    """A residual network with global average pooling and a linear head."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(inplace=True), nn.MaxPool2d(2, ceil_mode=True))
        self.stage1 = Block(8)
        self.stage2 = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), Block(16))
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.head(self.stage2(self.stage1(self.stem(x))).mean((2, 3)))


class Pyramid(nn.Module):
    """A segmenter with a feature pyramid."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stage1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.stage3 = nn.Sequential(nn.Conv2d(12, 16, 3, 2, 1), nn.ReLU())
        self.laterals = nn.ModuleList(nn.Conv2d(w, 8, 1) for w in (8, 12, 16))
        self.merge = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        c1 = self.stage1(x)
        c2 = self.stage2(c1)
        p = self.laterals[2](self.stage3(c2))
        for lateral, c in ((self.laterals[1], c2), (self.laterals[0], c1)):
            up = F.interpolate(p, scale_factor=2.0, mode="bilinear", align_corners=False)
            p = lateral(c) + up
        return self.head(self.merge(p))


class ProductClassifier(nn.Module):
    """A classifier with a product over channels after its first stage, an operator without a reverse-mode rule."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(4, 4, 3, 2), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        x = self.stage1(x)
        return self.head(self.stage2(x + x.prod(1, keepdim=True)).mean((2, 3)))


class NetworkCase(NamedTuple):
    """A network to test: its factory, the height and width of its images, and layers to explain."""

    make: Callable[[], nn.Module]
    size: int
    layers: tuple[str, ...] = ()


def torchvision_network(name: str, classes: int = 7, **options: object) -> Callable[[], nn.Module]:
    """A factory of one of torchvision's networks, without its weights."""
    return lambda: import_torchvision().models.get_model(name, weights=None, num_classes=classes, **options)


def calibrate_batch_norm(network: nn.Module, size: int) -> nn.Module:
    """Set the statistics of every batch norm to those of noise; without it the signal vanishes or explodes."""
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


def digests(folder: Path) -> dict[str, str]:
    """The hash of every file in a bundle."""
    return {file.name: digest(file) for file in folder.iterdir()}


def export_bundle(out: Path, network: nn.Module | None = None, **changes: Any) -> Path:
    """Write the bundle of the classifier, or of another network, with a complete description."""
    description: dict[str, Any] = {
        "name": "tiny",
        "version": 1,
        "task": "classification",
        "labels": ("a", "b", "c", "d", "e"),
        "activation": "softmax",
        "preprocessing": PREPROCESSING,
        "layers": ("stem", "stage1", "stage2"),
        "cam_layer": "stage2",
        "provenance": Provenance(source="a test", weights="random", license="none"),
    }
    description |= changes
    trunk = trace(network or Classifier(), description["preprocessing"], description["layers"])
    return write_bundle(trunk, BundleDescription(**description), out)


# The description of a bundle of `Pyramid`.
PYRAMID: dict[str, Any] = {
    "task": "segmentation",
    "labels": ("sky", "sea", "land"),
    "layers": ("stage1", "stage2", "stage3", "merge"),
    "cam_layer": "merge",
}
