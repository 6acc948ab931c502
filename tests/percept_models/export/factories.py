"""Networks as a user's module returns them: `module.path:factory` sources for the tests of `percept export`."""

from torch import Tensor, nn

from tests.percept_models.networks import Classifier, Pyramid, SineClassifier

MODULE = __name__


class BoxDetector(nn.Module):
    """Returns boxes, as detectors do."""

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        """Compute the output."""
        return [{"boxes": x.mean((1, 2))}]


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


def sine_classifier() -> nn.Module:
    """An operator without a reverse-mode rule after the first stage."""
    return SineClassifier()


def detector() -> nn.Module:
    """Not supported."""
    return BoxDetector()


def row_mean() -> nn.Module:
    """Not supported."""
    return RowMean()
