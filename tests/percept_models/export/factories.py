"""Networks as a user's module returns them: `module.path:factory` sources for the tests of `percept export`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.percept_models.networks import Classifier, ProductClassifier, Pyramid

MODULE = __name__


class BoxDetector(nn.Module):
    """Returns the boxes of each image, as detectors do."""

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        """Compute the output."""
        return [{"boxes": image.mean(0)[:, :4]} for image in x]


class RowMean(nn.Module):
    """Returns three dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return x.mean(1)


def classifier() -> nn.Module:
    """Five classes."""
    return Classifier()


def segmenter() -> nn.Module:
    """Three classes of pixels."""
    return Pyramid()


def binary_segmenter() -> nn.Module:
    """One channel of logits."""
    return Pyramid(1)


def product_classifier() -> nn.Module:
    """An operator without a reverse-mode rule after the first stage."""
    return ProductClassifier()


HEADS: dict[str, tuple[int, Callable[[Tensor], Any]]] = {
    "logit": (1, lambda y: y),
    "squeezed": (1, lambda y: y.squeeze()),
    "sigmoid": (1, lambda y: torch.sigmoid(y)[:, 0]),
    "hard sigmoid": (1, F.hardsigmoid),
    "softsign as a sigmoid": (4, lambda y: (F.softsign(8 * y) + 1) / 2),
    "root of softmax": (4, lambda y: y.softmax(1).sqrt()),
    "sigmoids": (4, torch.sigmoid),
    "softmax": (4, lambda y: F.softmax(y, dim=1)),
    "log softmax": (4, lambda y: y.log_softmax(-1)),
    "argmax of softmax": (4, lambda y: y.softmax(1).argmax(1)),
    "two": (4, lambda y: {"boxes": y, "classes": y[:, :3].softmax(1)}),
}
MASKS: dict[str, tuple[int, Callable[[Tensor], Any]]] = {
    "sigmoid": (1, lambda y: y.sigmoid()[:, 0]),
    "softmax with classes last": (4, lambda y: y.softmax(1).permute(0, 2, 3, 1)),
    "argmax": (4, lambda y: y.max(1, keepdim=True)[1].float()),
    "resized softmax": (4, lambda y: F.interpolate(y.softmax(1), scale_factor=2, mode="bilinear")),
}


class Headed(nn.Module):
    """A classifier or segmenter with the function `head` after its logits."""

    def __init__(self, classes: int, head: Callable[[Tensor], Any], segments: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.classes, self.head, self.segments = nn.Conv2d(16, classes, 1), head, segments

    def forward(self, x: Tensor) -> Any:
        """Compute the output."""
        y = self.classes(self.body(x))
        return self.head(y if self.segments else y.mean((2, 3)))


def headed_classifier(head: str) -> nn.Module:
    """A classifier with one of the `HEADS`."""
    return Headed(*HEADS[head], segments=False)


def headed_segmenter(head: str) -> nn.Module:
    """A segmenter with one of the `MASKS`."""
    return Headed(*MASKS[head], segments=True)


def detector() -> nn.Module:
    """Not supported."""
    return BoxDetector()


def row_mean() -> nn.Module:
    """Not supported."""
    return RowMean()
