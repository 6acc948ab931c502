"""A layer as a function of images, with the two objectives that feature visualization minimizes.

ONNX Runtime computes the activations in the trunk, and the gradients in the trunk's derivative from the image to the
layer, compiled by `autodiff`. Pixels are those of the trunk, in 0..255, before normalization; the network's mean,
std and channel order are applied here.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor

from percept.bundle.manifest import IMAGE, Layer
from percept.bundle.preprocessing import Preprocessing
from percept.runtime.session import Session, resolve_device
from percept_models.autodiff.tail import ACTIVATIONS, GRADIENTS, LOGITS, SEED, build_tail
from percept_models.graph.reader import Array, Graph
from percept_models.sources.trunk import PIXELS
from percept_models.visualize.layer_graphs import (
    LEAKY,
    OUTPUT,
    TARGET,
    add_leaky_relu,
    final_activation,
    seed_with_difference,
    truncate_trunk,
)
from percept_models.visualize.parameterization import NATURAL, ImageParameterization

NOISE_IMAGES = 32
Objective = Callable[[Array], tuple[Array, Array]]  # normalized images [n,C,H,W] → loss [n] and its gradient


class LayerResponse:
    """A layer as a function of images of one size, with its derivative."""

    def __init__(self, trunk: ModelProto, layer: Layer, preprocessing: Preprocessing, size: tuple[int, int]) -> None:
        """Compile the layer for images of `size` (H, W).

        Raises `UnsupportedOperator` where an operator has no reverse-mode rule, and `BundleError` or `ValueError` where
        the network does not accept that size.
        """
        self.layer, self.preprocessing, self.size = layer.name, preprocessing, size
        self.image_shape = (*size, preprocessing.shape[2])
        model = truncate_trunk(trunk, layer.name, size)
        self._model, self._graph = model, Graph(model)
        self._activation = final_activation(self._graph, layer.name)
        # Before a ReLU at the end, where its gradient does not vanish.
        self._tensor = self._activation[0].input[0] if self._activation else layer.name
        self.shape = tuple(size or 0 for size in self._graph.shapes.get(self._tensor, ())[1:])
        if len(self.shape) != 3 or 0 in self.shape:
            raise ValueError(f"the shape of {layer.name!r} is not known for images of {size[0]} x {size[1]}")
        if self._activation:
            model.graph.output.append(helper.make_tensor_value_info(self._tensor, TensorProto.FLOAT, None))
        self._trunk_session = _create_session(model)
        self._tail, crossing = build_tail(self._graph, IMAGE, logits=self._tensor)
        if crossing:
            raise ValueError(f"a tensor that {layer.name!r} needs bypasses the image")

    def activations(self, pixels: Array) -> Array:
        """The layer's activations [n,C,h,w] for pixels uint8 [n,H,W,c]."""
        return np.concatenate(self._run_trunk(self.layer, pixels))

    def channel_means(self, pixels: Array) -> Array:
        """The mean [n,C] of each channel after the leaky ReLU of `channel_objective`, for pixels uint8 [n,H,W,c]."""
        x = self.normalized(torch.from_numpy(pixels).permute(0, 3, 1, 2).float()).numpy()
        seed = np.zeros((1, *self.shape), np.float32)
        rows = [self._leaky_session.run({ACTIVATIONS: row[None], SEED: seed}, [LOGITS])[LOGITS] for row in x]
        return np.asarray(np.concatenate(rows).mean((2, 3)))

    def normalized(self, pixels: Tensor) -> Tensor:
        """The network's input for pixels [n,c,H,W]."""
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.preprocessing.mean, self.preprocessing.std))
        return ((pixels.flip(1) if self.preprocessing.channels == "BGR" else pixels) - mean) / std

    def channel_objective(self, channels: Sequence[int]) -> Objective:
        """For image i, minus the mean of channel `channels[i]` after a leaky ReLU that replaces the layer's own.

        The leaky ReLU never saturates; its threshold is the channel's mean on noise. Without it the mean of a filter's
        linear responses would depend on the border of the image alone.
        """
        seed = np.zeros((len(channels), *self.shape), np.float32)
        seed[range(len(channels)), channels] = -1 / np.prod(self.shape[1:])

        def objective(x: Array) -> tuple[Array, Array]:
            found = self._leaky_session.run({ACTIVATIONS: x, SEED: seed}, [LOGITS, GRADIENTS])
            return (found[LOGITS] * seed).sum((1, 2, 3)), found[GRADIENTS]

        return objective

    def inversion_objective(self, A: Array) -> Objective:
        """‖A(x) - A‖² / ‖A‖² of each image x, for activations A [n,C,h,w].

        A ReLU at the end passes the gradient unchanged: it is the gradient of the matching loss (Auer et al. 1995),
        which has the same minimum, and a slope where cells are zero that should be active.
        """
        session = _create_session(seed_with_difference(self._tail, self._activation, self._graph))
        scale = 1 / np.maximum(np.square(A).sum((1, 2, 3), keepdims=True), 1e-12)

        def objective(x: Array) -> tuple[Array, Array]:
            found = session.run({ACTIVATIONS: x, TARGET: A}, [OUTPUT, GRADIENTS])
            return (scale * np.square(found[OUTPUT] - A)).sum((1, 2, 3)), 2 * scale * found[GRADIENTS]

        return objective

    def _run_trunk(self, tensor: str, pixels: Array) -> list[Array]:
        """A tensor of the trunk, image by image: the maps of many large images would need much memory."""
        return [self._trunk_session.run({PIXELS: row[None]}, [tensor])[tensor] for row in pixels]

    @cached_property
    def _leaky_session(self) -> Session:
        """The derivative of the layer with a leaky ReLU whose threshold is each channel's mean on noise."""
        threshold = np.concatenate(self._run_trunk(self._tensor, noise_images(self.image_shape))).mean((0, 2, 3))
        tail, _ = build_tail(add_leaky_relu(self._model, self._tensor, threshold), IMAGE, logits=LEAKY)
        return _create_session(tail)


def noise_images(shape: tuple[int, int, int], seed: int = 1) -> Array:
    """Noise images uint8 [n,H,W,C] of `shape` (H, W, C) with the spectrum and the colours of photos."""
    return to_pixels(ImageParameterization(NOISE_IMAGES, shape, seed, NATURAL))


def to_pixels(images: ImageParameterization) -> Array:
    """The images as uint8 [n,H,W,C]."""
    with torch.no_grad():
        return np.ascontiguousarray(images().round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def _create_session(model: ModelProto) -> Session:
    return Session(model.SerializeToString(), resolve_device("auto"), torch.get_num_threads())
