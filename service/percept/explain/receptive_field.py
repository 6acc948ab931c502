"""The receptive field of a cell: the rectangle of the photo that can influence it, and the part that does.

An `InputImage`, a layer and a cell come in; rectangles in continuous coordinates of the photo leave.

- Theoretical: from the strides and kernels between the pixels and the layer, as the manifest states them. If it states
  none, the field is the whole input of the network.
- Effective: from the gradient of the cell at the image. Most of the theoretical field has little influence: Luo et al.
  2016, arXiv:1701.04128. The influence of a pixel is the length of that gradient over the pixel's channels.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from percept.bundle.manifest import IMAGE, Layer
from percept.errors import BadParameter, GradientsUnavailable, MethodUnavailable
from percept.explain.explanation import Explanation
from percept.explain.maps import find_peak
from percept.imaging.geometry import Box, Map
from percept.runtime.model import Model
from percept.runtime.session import Arrays
from percept.tasks.input_image import InputImage
from percept.tasks.task import not_finite

OUTER_SHARE = 0.02275  # of the influence outside of each side: two standard deviations of a normal distribution

Cell = tuple[int, int]  # row and column


class EffectiveField(BaseModel):
    """The effective receptive field: the box that leaves out 2.275 % of the influence on each side.

    Of a normal distribution that is the mean plus and minus two standard deviations.
    """

    left: float
    top: float
    right: float
    bottom: float

    @property
    def box(self) -> Box:
        """The rectangle (left, top, right, bottom)."""
        return self.left, self.top, self.right, self.bottom


class TheoreticalField(BaseModel):
    """The theoretical receptive field of one cell, in continuous coordinates of the photo."""

    cell: tuple[int, int] = Field(description="row and column in the map", examples=[(5, 3)])
    left: float
    top: float
    right: float
    bottom: float
    whole: bool = Field(description="whether the field covers all that the network sees of the photo")

    @property
    def box(self) -> Box:
        """The rectangle (left, top, right, bottom)."""
        return self.left, self.top, self.right, self.bottom

    @property
    def outline(self) -> Box | None:
        """The rectangle to draw."""
        return self.box


class TheoreticalAndEffectiveField(TheoreticalField):
    """The theoretical receptive field of one cell, and the effective one in this photo."""

    effective: EffectiveField | None = Field(
        None, description="the effective receptive field; null if no pixel influences the cell"
    )

    @property
    def outline(self) -> Box | None:
        """The rectangle to draw: the effective field; None if no pixel influences the cell."""
        return self.effective.box if self.effective else None


def theoretical_field(image: InputImage, layer: Layer, cell: Cell) -> TheoreticalField:
    """The theoretical field of a cell, clipped to what the network sees of the photo."""
    geometry, preprocessing = image.geometry, image.model.manifest.preprocessing
    shape = (preprocessing.height, preprocessing.width)
    (top, bottom), (left, right) = (_interval(layer, *one) for one in zip((0, 1), cell, shape, strict=True))
    box = (*geometry.to_photo(top, left, shape), *geometry.to_photo(bottom, right, shape))
    whole = box == (*geometry.to_photo(0, 0, shape), *geometry.to_photo(*shape, shape))
    return TheoreticalField(cell=cell, whole=whole, **dict(zip(("left", "top", "right", "bottom"), box, strict=True)))


def field_at_point(image: InputImage, layer: Layer, x: float, y: float) -> TheoreticalField:
    """The theoretical field of the cell at the photo point (x, y).

    Raises `BadParameter` if the network does not see the point.
    """
    geometry, (h, w) = image.geometry, layer.shape[1:]
    row, column = geometry.to_map(x, y, (h, w))
    if not (x < geometry.width and y < geometry.height and 0 <= row < h and 0 <= column < w):
        left, top, right, bottom = geometry.seen
        seen = f"{left}..{right} x {top}..{bottom}"
        raise BadParameter(f"the network does not see the photo at {x:g}, {y:g}: it sees the pixels {seen}")
    return theoretical_field(image, layer, (int(row), int(column)))


def field_at_peak(explanation: Explanation) -> TheoreticalField | None:
    """The field of the hottest cell of a map; None if no cell is above 0, or if different layers are fused.

    A fused map has the resolution of its finest layer, but its heat may come from the field of any of them.
    """
    cell, layers = find_peak(explanation.heat), explanation.layers
    if cell is None or len({layer.name for layer in layers}) > 1:
        return None
    field, influence = theoretical_field(explanation.image, layers[0], cell), explanation.influence
    return field if influence is None else add_effective_field(explanation.image, field, influence)


def add_effective_field(image: InputImage, field: TheoreticalField, influence: Map) -> TheoreticalAndEffectiveField:
    """A theoretical field together with the effective one."""
    return TheoreticalAndEffectiveField(**dict(field), effective=effective_field(image, influence))


def effective_field(image: InputImage, influence: Map) -> EffectiveField | None:
    """The effective field of an influence [H,W] of the network's pixels; None if it is 0 everywhere."""
    box = central_box(influence)
    if box is None:
        return None
    left, top, right, bottom = box
    shape = (influence.shape[0], influence.shape[1])
    (x0, y0), (x1, y1) = image.geometry.to_photo(top, left, shape), image.geometry.to_photo(bottom, right, shape)
    return EffectiveField(left=x0, top=y0, right=x1, bottom=y1)


def measure_influence(image: InputImage, outputs: Arrays, layer: Layer, cell: Cell) -> Map:
    """The length of d(sum over the cell's channels)/d(pixel), float32 [H,W] over the network's input.

    `outputs` are the trunk outputs of the image, with the layer `image` and the logits. The tail of the layer `image`,
    which has a seed for every layer, computes the gradient. The map is 0 if the ReLUs of all the cell's channels are
    inactive. Raises `NetworkNotFinite`.
    """
    network, image_layer = image.model.network, require_image_layer(image.model, layer)
    layer_seed = np.zeros((1, *layer.shape), np.float32)
    layer_seed[0, :, *cell] = 1
    logits_seed = np.zeros((1, *outputs["logits"].shape), np.float32)
    seeds = {layer.name: layer_seed}
    result = network.run_tail(image_layer, outputs, outputs[IMAGE][None], logits_seed, ["gradients"], seeds)
    influence = np.asarray(np.sqrt((result["gradients"][0] ** 2).sum(0)), np.float32)
    if not np.isfinite(influence).all():
        raise not_finite(image.model.manifest, f"gradients of layer {layer.name!r} at the image")
    return influence


def require_image_layer(model: Model, layer: Layer) -> Layer:
    """The layer `image`, which the gradient of a cell of `layer` is taken at.

    Raises `MethodUnavailable` or `GradientsUnavailable` with the reason if there is no such gradient.
    """
    image = model.manifest.layer(IMAGE)
    if image is None:
        raise GradientsUnavailable(f"the bundle has no layer {IMAGE!r}: export the model again")
    if image.tail is None:
        raise GradientsUnavailable(f"layer {IMAGE!r} has no gradients: {image.unavailable}")
    if layer.name not in image.tail.seeds:
        layers = ", ".join(image.tail.seeds)
        raise MethodUnavailable(f"layer {layer.name!r} has no gradient at the image; these layers have one: {layers}")
    return image


def central_box(influence: Map) -> Box | None:
    """The rectangle (left, top, right, bottom) that leaves out 2.275 % of the sum of a map on each side.

    In continuous cells of the map; None if the map is 0 everywhere.
    """
    if not influence.any():
        return None
    (left, right), (top, bottom) = (_central_interval(influence.sum(axis, dtype=np.float64)) for axis in (0, 1))
    return left, top, right, bottom


def cell_box(image: InputImage, cell: Cell, shape: tuple[int, ...]) -> Box:
    """The rectangle of the photo that a cell of a map of `shape` (h, w) covers."""
    (row, column), (h, w) = cell, shape
    return (*image.geometry.to_photo(row, column, (h, w)), *image.geometry.to_photo(row + 1, column + 1, (h, w)))


def _interval(layer: Layer, axis: int, i: int, limit: int) -> tuple[float, float]:
    """The field of cell `i` along an axis (0 down, 1 right) of `limit` input pixels."""
    field = layer.receptive_field
    if field is None:
        return 0.0, float(limit)
    centre, reach = field.start[axis] + i * layer.stride[axis], field.size[axis] / 2
    return min(max(centre - reach, 0.0), limit), min(max(centre + reach, 0.0), limit)


def _central_interval(mass: NDArray[np.float64]) -> tuple[float, float]:
    """The interval of a distribution over cells that leaves out `OUTER_SHARE` at each end."""
    cumulative = np.concatenate([[0.0], np.cumsum(mass)]) / mass.sum()
    low, high = np.interp([OUTER_SHARE, 1 - OUTER_SHARE], cumulative, np.arange(len(cumulative)))
    return float(low), float(high)
