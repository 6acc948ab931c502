"""The effective receptive field: how much each pixel of the image moves a cell, and where most of that lies.

What a cell can see in theory and what it heeds are two things: most of its field hardly matters. The gradient of the
cell at the image tells (Luo et al. 2016, arXiv:1701.04128), by the tail of the image, which has a seed for every layer.
"""

import numpy as np

from percept.bundle.manifest import IMAGE, Layer
from percept.errors import GradientsUnavailable, MethodUnavailable
from percept.imaging.geometry import Box, Map
from percept.runtime.model import Model
from percept.runtime.session import Arrays
from percept.tasks.input_image import InputImage

LEFT_OUT = 0.02275  # of the influence on every side: two standard deviations, were it normal


def image_layer(model: Model, layer: Layer) -> Layer:
    """The layer `image`, if a cell of `layer` can be traced back to it.

    Raises `MethodUnavailable` or `GradientsUnavailable` with the reason.
    """
    image = model.manifest.layer(IMAGE)
    if image is None:
        raise GradientsUnavailable(f"the bundle does not tap its {IMAGE}: export it again")
    if image.tail is None:
        raise GradientsUnavailable(f"layer {IMAGE!r} has no gradients: {image.unavailable}")
    if layer.name not in image.tail.seeds:
        traced = ", ".join(image.tail.seeds)
        raise MethodUnavailable(f"no gradient leads from {layer.name!r} to the image, but from {traced}")
    return image


def influence(view: InputImage, row: Arrays, layer: Layer, cell: tuple[int, int]) -> Map:
    """The length of d(sum over channels of the cell)/d(pixel) at every pixel, float32 [H,W] of the network's input.

    `row` holds the image and the logits. All 0 where every channel of the cell is silent.
    """
    network, image = view.model.network, image_layer(view.model, layer)
    seed = np.zeros((1, *layer.shape), np.float32)
    seed[0, :, *cell] = 1
    nothing = np.zeros((1, *row["logits"].shape), np.float32)
    found = network.run_tail(image, row, row[IMAGE][None], nothing, ["gradients"], {layer.name: seed})
    return np.asarray(np.sqrt((found["gradients"][0] ** 2).sum(0)), np.float32)


def extent(found: Map) -> Box | None:
    """The rectangle (left, top, right, bottom) of a map beyond each side of which 2.275 % of its influence lies.

    In continuous cells of the map; None where there is no influence at all.
    """
    if not found.any():
        return None
    (left, right), (top, bottom) = (_between(found.sum(axis, dtype=np.float64)) for axis in (0, 1))
    return left, top, right, bottom


def _between(mass: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    """Where the share `LEFT_OUT` of a distribution over cells is reached from either end."""
    whole = np.concatenate([[0.0], np.cumsum(mass)]) / mass.sum()
    low, high = np.interp([LEFT_OUT, 1 - LEFT_OUT], whole, np.arange(len(whole)))
    return float(low), float(high)
