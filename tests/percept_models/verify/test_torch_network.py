"""The limit of gradients where rounding alone makes torch's own gradients jump."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from percept_models.verify.bundle import verify_bundle
from percept_models.verify.checks import GRADIENT_LIMIT
from percept_models.verify.torch_network import JUMP_LIMIT, JUMP_NOTE
from tests.percept_models.networks import PREPROCESSING, export_bundle


class Centred(nn.Module):
    """Every ReLU gets 0, up to rounding, on an image of one colour: torch and ONNX Runtime average differently."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 1)
        self.mix = nn.Conv2d(8, 64, 1, bias=False)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        x = self.stem(x)
        return self.head(torch.relu(self.mix(x - x.mean((2, 3), keepdim=True))).mean((2, 3)))


def test_limit_follows_the_jumps_of_torch(tmp_path: Path) -> None:
    folder = export_bundle(tmp_path, Centred(), layers=("stem", "mix"), cam_layer="mix")
    colours = np.random.default_rng(0).integers(0, 256, (8, 1, 1, 3), np.uint8)
    one_colour = np.broadcast_to(colours, (8, PREPROCESSING.height, PREPROCESSING.width, 3)).copy()
    checks = {check.name: check for check in verify_bundle(folder, Centred(), one_colour)}
    assert checks["stem gradients"].note == JUMP_NOTE
    assert checks["stem gradients"].limit > 100 * GRADIENT_LIMIT
    assert checks["stem gradients"].limit <= JUMP_LIMIT
    assert checks["mix gradients"].limit == GRADIENT_LIMIT
    golden = {check.name: check for check in verify_bundle(folder, Centred())}
    assert golden["stem gradients"].limit == GRADIENT_LIMIT
