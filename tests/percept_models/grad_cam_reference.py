"""pytorch-grad-cam as a reference that is independent of Percept: its maps of torch networks."""

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import nn

from percept_models.sources.libraries import import_torchvision

import_torchvision()  # pytorch-grad-cam imports it in a way that fails beside a CPU build of torch

MAP_LIMIT = 1e-4  # the greatest difference of two final maps
# The classes of pytorch-grad-cam by method: first those whose map is a function of activations and gradients alone.
GRADIENT_CLASSES = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
}
CLASS_NAMES = GRADIENT_CLASSES | {
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "ablationcam": "AblationCAM",
    "scorecam": "ScoreCAM",
}


def grad_cam_package() -> ModuleType:
    """Import the package."""
    import pytorch_grad_cam

    return pytorch_grad_cam


@dataclass(frozen=True)
class GradCamResult:
    """What pytorch-grad-cam computes: activations and gradients [C,h,w], and the final map [H,W] in [0,1]."""

    activations: np.ndarray
    gradients: np.ndarray
    final: np.ndarray


class SeedTarget:
    """A seed as a target of pytorch-grad-cam: sum(seed * logits)."""

    def __init__(self, seed: np.ndarray) -> None:
        self.seed = torch.from_numpy(seed)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        return (logits * self.seed).sum()


def run_grad_cam(network: nn.Module, layer: str, x: torch.Tensor, seed: np.ndarray, method: str) -> GradCamResult:
    """Explain one normalized image x [1,3,H,W] with the class `method` of pytorch-grad-cam."""
    with getattr(grad_cam_package(), method)(model=network, target_layers=[network.get_submodule(layer)]) as cam:
        final = cam(input_tensor=x, targets=[SeedTarget(seed)])[0]
        recorded = cam.activations_and_grads
        return GradCamResult(recorded.activations[0][0].numpy(), recorded.gradients[0][0].numpy(), final)


def rescale(heat: np.ndarray) -> np.ndarray:
    """Scale a map from its minimum, the reference's last step; Percept only divides by the maximum."""
    from pytorch_grad_cam.utils.image import scale_cam_image

    return scale_cam_image(heat[None])[0]
