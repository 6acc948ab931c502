"""The output of a traced trunk becomes logits, and its tapped layers stay if the logits are computed from them."""

import numpy as np
import torch
from torch import Tensor, nn

from percept.bundle.preprocessing import Preprocessing
from percept_models.autodiff.tail import LOGITS
from percept_models.graph.execution import run
from percept_models.importer.traced_trunk import convert_trunk
from percept_models.sources.trunk import PIXELS, example_pixels, run_network, trace


class Mask(nn.Module):
    """A mask of one class; the module `output` comes before its logits, and `mask` gives its sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.output, self.logit, self.mask = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 1, 1), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        y: Tensor = self.mask(self.logit(torch.relu(self.output(x))))
        return y.squeeze()


def test_layers_before_the_logits_stay() -> None:
    """The logits themselves, and what comes after them, are no layers; one image gives what it gives among several."""
    network, preprocessing = Mask().eval(), Preprocessing(height=8, width=6)
    pixels = example_pixels(preprocessing)
    raw = run_network(network, preprocessing, pixels).tensor
    traced = trace(network, preprocessing, ["image", "output", "logit", "mask"])
    trunk, converted = convert_trunk(traced, pixels.numpy(), raw.numpy(), None, None)
    assert [value.name for value in trunk.graph.output] == [LOGITS, "image", "output"]
    assert (converted.head.removed, converted.head.added, converted.activation) == (("Sigmoid",), "zero", "softmax")
    logits = run(trunk, {PIXELS: pixels.numpy()})[LOGITS]
    assert not logits[:, 0].any()
    np.testing.assert_allclose(1 / (1 + np.exp(-logits[:, 1])), raw.numpy(), rtol=1e-4)
    alone = run(trunk, {PIXELS: pixels.numpy()[:1]})
    np.testing.assert_allclose(alone[LOGITS], logits[:1], rtol=1e-5)
    assert alone["output"].shape == (1, 4, 8, 6)
