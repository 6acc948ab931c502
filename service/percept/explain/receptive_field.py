"""The receptive field of a cell: the rectangle of the photo that can have any influence on it.

It is the theoretical one, from the strides and kernels between the pixels and the layer as the manifest states them; a
cell pays more heed to its middle than to its edges. A layer without one sees all that the network sees.
"""

from pydantic import BaseModel, Field

from percept.bundle.manifest import Layer
from percept.errors import BadParameter
from percept.explain.influence import extent
from percept.explain.maps import find_peak
from percept.explain.explanation import Explanation
from percept.imaging.geometry import Box, Map
from percept.tasks.input_image import InputImage

Cell = tuple[int, int]  # row and column


class EffectiveAnswer(BaseModel):
    """The effective receptive field: beyond each side lies 2.275 % of the influence, were it normal two deviations."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def box(self) -> Box:
        """The rectangle (left, top, right, bottom) alone."""
        return self.left, self.top, self.right, self.bottom


class FieldAnswer(BaseModel):
    """The receptive field of one cell: what of the photo it can see, in continuous coordinates of the photo."""

    cell: tuple[int, int] = Field(description="row and column in the map", examples=[(5, 3)])
    left: float
    top: float
    right: float
    bottom: float
    whole: bool = Field(description="whether the cell can see all that the network sees of the photo")

    @property
    def box(self) -> Box:
        """The rectangle (left, top, right, bottom) alone."""
        return self.left, self.top, self.right, self.bottom

    @property
    def shown(self) -> Box | None:
        """The rectangle that a picture shows."""
        return self.box


class TracedAnswer(FieldAnswer):
    """The receptive field of a cell, and what of it moves the cell in this photo."""

    effective: EffectiveAnswer | None = Field(
        None, description="view=effective: where what moves the cell lies; none for a silent one"
    )

    @property
    def shown(self) -> Box | None:
        """The rectangle that a picture shows: the effective one; None for a silent cell."""
        return self.effective.box if self.effective else None


def receptive_field(view: InputImage, layer: Layer, cell: Cell) -> FieldAnswer:
    """What a cell (row, column) of a layer can see of the photo, as far as the network sees it."""
    geometry, rule = view.geometry, view.model.manifest.preprocessing
    shape = (rule.height, rule.width)
    (top, bottom), (left, right) = (_extent(layer, *one) for one in zip((0, 1), cell, shape, strict=True))
    box = (*geometry.to_photo(top, left, shape), *geometry.to_photo(bottom, right, shape))
    whole = box == (*geometry.to_photo(0, 0, shape), *geometry.to_photo(*shape, shape))
    return FieldAnswer(cell=cell, whole=whole, **dict(zip(("left", "top", "right", "bottom"), box, strict=True)))


def field_under(view: InputImage, layer: Layer, x: float, y: float) -> FieldAnswer:
    """What the cell under the photo point (x, y) can see; raises `BadParameter` where the network does not see it."""
    geometry, (h, w) = view.geometry, layer.shape[1:]
    row, column = geometry.to_map(x, y, (h, w))
    if not (x < geometry.width and y < geometry.height and 0 <= row < h and 0 <= column < w):
        left, top, right, bottom = geometry.seen
        seen = f"{left}..{right} x {top}..{bottom}"
        raise BadParameter(f"the network did not see the photo at {x:g}, {y:g}: it sees {seen} of its pixels")
    return receptive_field(view, layer, (int(row), int(column)))


def effective_field(view: InputImage, influence: Map) -> EffectiveAnswer | None:
    """Where most of an influence [H,W] of the network's pixels lies in the photo; None where there is none."""
    found = extent(influence)
    if found is None:
        return None
    left, top, right, bottom = found
    shape = (influence.shape[0], influence.shape[1])
    (x0, y0), (x1, y1) = view.geometry.to_photo(top, left, shape), view.geometry.to_photo(bottom, right, shape)
    return EffectiveAnswer(left=x0, top=y0, right=x1, bottom=y1)


def field_of_peak(explanation: Explanation) -> FieldAnswer | None:
    """What the hottest cell of a map can see; None without a cell above 0, and where different layers are fused.

    A fused map is as fine as the finest of its layers, while its heat may come from the field of any of them.
    """
    cell, layers = find_peak(explanation.heat), explanation.layers
    if cell is None or len({layer.name for layer in layers}) > 1:
        return None
    field, influence = receptive_field(explanation.image, layers[0], cell), explanation.influence
    return field if influence is None else traced(explanation.image, field, influence)


def traced(view: InputImage, field: FieldAnswer, influence: Map) -> TracedAnswer:
    """A field, and where in it most of an influence lies."""
    return TracedAnswer(**dict(field), effective=effective_field(view, influence))


def cell_box(view: InputImage, cell: Cell, shape: tuple[int, ...]) -> Box:
    """The rectangle of the photo that a cell of a map of `shape` (h, w) covers in it."""
    (row, column), (h, w) = cell, shape
    return (*view.geometry.to_photo(row, column, (h, w)), *view.geometry.to_photo(row + 1, column + 1, (h, w)))


def _extent(layer: Layer, axis: int, i: int, limit: int) -> tuple[float, float]:
    """From where to where cell `i` can see along an axis (0 down, 1 right) of `limit` input pixels."""
    field = layer.receptive_field
    if field is None:
        return 0.0, float(limit)
    centre, reach = field.start[axis] + i * layer.stride[axis], field.size[axis] / 2
    return min(max(centre - reach, 0.0), limit), min(max(centre + reach, 0.0), limit)
