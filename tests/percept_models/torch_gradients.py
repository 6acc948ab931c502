"""pytorch-grad-cam as the outside truth: the same torch weights, its own maps."""

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import nn

from percept_models.sources.libraries import torchvision

torchvision()  # which pytorch-grad-cam imports


def grad_cam() -> ModuleType:
    """The package."""
    import pytorch_grad_cam

    return pytorch_grad_cam


@dataclass(frozen=True)
class Reference:
    """What pytorch-grad-cam computes: activations and gradients [C,h,w], the final map [H,W] in [0,1]."""

    activations: np.ndarray
    gradients: np.ndarray
    final: np.ndarray


class _SeedTarget:
    """Any seed as a target of pytorch-grad-cam: sum(seed * logits)."""

    def __init__(self, seed: np.ndarray) -> None:
        self.seed = torch.from_numpy(seed)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        return (logits * self.seed).sum()


def explain(network: nn.Module, layer: str, x: torch.Tensor, seed: np.ndarray, method: str) -> Reference:
    """The map of one normalised image x [1,3,H,W] by the class `method` of pytorch-grad-cam."""
    with getattr(grad_cam(), method)(model=network, target_layers=[network.get_submodule(layer)]) as cam:
        final = cam(input_tensor=x, targets=[_SeedTarget(seed)])[0]
        stores = cam.activations_and_grads
        return Reference(stores.activations[0][0].numpy(), stores.gradients[0][0].numpy(), final)


def scaled(heat: np.ndarray) -> np.ndarray:
    """The reference's last step: it stretches a map from its minimum, Percept only divides by the maximum."""
    from pytorch_grad_cam.utils.image import scale_cam_image

    return scale_cam_image(heat[None])[0]
