"""Activation maximization and feature inversion: Adam moves an `ImageParameterization` until an objective is small."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from percept_models.graph.reader import Array
from percept_models.visualize.layer_response import NOISE_IMAGES, LayerResponse, Objective, to_pixels
from percept_models.visualize.parameterization import NATURAL, STRONG, ImageParameterization
from percept_models.visualize.regularization import random_transform, total_variation

LEARNING_RATE = 0.1
EPSILON = 1e-12  # of Adam: the mean of many cells has a small gradient
TOTAL_VARIATION_WEIGHT = 20.0  # beside the logarithm of an inversion's error


class ObjectiveFunction(torch.autograd.Function):
    """The loss [n] of normalized images [n,C,H,W] by an `Objective`, so that torch's gradients pass ONNX Runtime."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, objective: Objective) -> Tensor:
        """Compute the loss, and keep its gradient, which the objective gives at the same time."""
        loss, gradient = objective(x.detach().numpy())
        ctx.save_for_backward(torch.from_numpy(gradient))
        return torch.from_numpy(loss)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        """The gradient, weighted image by image."""
        (gradient,) = ctx.saved_tensors
        return cotangent.view(-1, 1, 1, 1) * gradient, None


def maximize_channels(response: LayerResponse, channels: Sequence[int], steps: int, seed: int = 0) -> Array:
    """For each channel the image with the greatest mean activation, uint8 [n,H,W,C].

    Activation maximization (Erhan et al. 2009) with random transformations at each step (Olah et al. 2017). It starts
    from the noise image with the greatest mean, because on a grey image a ReLU may have no gradient.
    """
    generator, objective = torch.Generator().manual_seed(seed), response.channel_objective(channels)
    images = ImageParameterization(NOISE_IMAGES, response.image_shape, seed, NATURAL, STRONG)
    best = response.channel_means(to_pixels(images))[:, channels].argmax(0)
    images.z = nn.Parameter(images.z.detach()[best])

    def loss(x: Tensor) -> Tensor:
        return _evaluate(response, random_transform(x, generator), objective)

    return _minimize(images, loss, steps)


def invert_features(response: LayerResponse, photo: Array, steps: int, seed: int = 0) -> tuple[Array, float]:
    """An image x, uint8 [H,W,C], whose activations are close to those of a photo, A, and ‖A(x) - A‖² / ‖A‖².

    Feature inversion (Mahendran and Vedaldi 2015, arXiv:1412.0035); the prior is the parameterization and total
    variation. The loss is the logarithm of the error, so that the prior keeps its weight where the error is small.
    """
    A = response.activations(photo[None])
    objective = response.inversion_objective(A)

    def loss(x: Tensor) -> Tensor:
        error = _evaluate(response, x, objective)
        return error.clamp(min=1e-8).log() + TOTAL_VARIATION_WEIGHT * total_variation(x)

    found = _minimize(ImageParameterization(1, response.image_shape, seed), loss, steps)
    error = np.square(response.activations(found) - A).sum() / max(float(np.square(A).sum()), 1e-12)
    return found[0], float(error)


def _evaluate(response: LayerResponse, x: Tensor, objective: Objective) -> Tensor:
    """The loss [n] of images [n,C,H,W] in 0..255."""
    loss: Tensor = ObjectiveFunction.apply(response.normalized(x), objective)  # type: ignore[no-untyped-call]
    return loss


def _minimize(images: ImageParameterization, loss: Callable[[Tensor], Tensor], steps: int) -> Array:
    """Run Adam with a learning rate that decays to 0; returns the images uint8 [n,H,W,C]."""
    optimizer = Adam(images.parameters(), lr=LEARNING_RATE, eps=EPSILON)
    schedule = CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(images()).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return to_pixels(images)
