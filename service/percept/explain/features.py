"""The feature map of one layer: its statistics, embeddings and pictures, and a response of `/features` in bytes.

A `FeatureMap` and a `FeatureOutput` come in; numbers, pictures and encoded bytes leave. It knows no HTTP.

Letters: A [C,h,w] the activations of the layer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from percept.bundle.manifest import Layer
from percept.explain.maps import normalize
from percept.explain.principal_components import principal_components, scale_to_colours
from percept.explain.receptive_field import cell_box, effective_field, field_at_point, measure_influence
from percept.explain.runner import FULL_HEAT_QUANTILE
from percept.imaging.colormaps import GREY, render_heatmap, scale_channel
from percept.imaging.encode import encode, encode_npy
from percept.imaging.geometry import Map, project_to_photo
from percept.imaging.overlay import PEAK_COLOUR, outline_cell, overlay_heatmap, pixel_box
from percept.imaging.sheet import render_channels
from percept.runtime.session import Arrays
from percept.tasks.input_image import InputImage
from percept.tasks.task import not_finite
from percept.telemetry.context import stage

View = Literal["grid", "components", "channel", "field", "effective"]
Point = tuple[float, float]  # (x, y) of the photo

POOLS: dict[str, Callable[[Map], Map]] = {
    "avg": lambda A: A.mean((1, 2)),
    "max": lambda A: A.max((1, 2)),
}
EFFECTIVE_COLORMAP, EFFECTIVE_ALPHA = "inferno", 0.75  # of an effective receptive field
SHADE = 0.35  # brightness of the photo outside a receptive field


class ChannelStatistics(NamedTuple):
    """Float32 [C] each, by channel over its cells; `active` is the share of cells above 0."""

    mean: Map
    std: Map
    minimum: Map
    maximum: Map
    active: Map


@dataclass(frozen=True)
class FeatureOutput:
    """What a response of `/features` shows: its format, and the parameters of its view."""

    format: str
    view: View | None = None
    pool: str | None = None
    channels: int = 25
    channel: int | None = None
    colormap: str = "viridis"
    point: Point | None = None

    @property
    def is_array(self) -> bool:
        """Whether the response is the feature map itself."""
        return self.format == "npy" and self.pool is None


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """The activations A of one layer, float32 [C,h,w].

    `influence` [H,W] is the gradient norm of one cell at the network's pixels, for `view=effective`. A response in JSON
    has `statistics` or an `embedding` [C]; any other response is `encoded`.
    """

    image: InputImage
    layer: Layer
    activations: Map
    influence: Map | None = None
    statistics: ChannelStatistics | None = None
    embedding: Map | None = None
    encoded: bytes | None = None


def channel_statistics(A: Map) -> ChannelStatistics:
    """The statistics of every channel."""
    return ChannelStatistics(A.mean((1, 2)), A.std((1, 2)), A.min((1, 2)), A.max((1, 2)), (A > 0).mean((1, 2)))


def build_feature_map(image: InputImage, layer: Layer, output: FeatureOutput, outputs: Arrays) -> FeatureMap:
    """The feature map of a layer in the trunk outputs of an image, with what the output shows of it.

    The array itself is returned whatever its values are. Anything computed from values that are not finite raises
    `NetworkNotFinite`.
    """
    A = outputs[layer.name]
    features = FeatureMap(image, layer, A)
    if output.view == "effective" and output.point:
        cell = field_at_point(image, layer, *output.point).cell
        features = replace(features, influence=measure_influence(image, outputs, layer, cell))
    elif not (output.is_array or output.view == "field" or np.isfinite(A).all()):
        raise not_finite(image.model.manifest, f"activations of layer {layer.name!r}")
    if output.format != "json":
        return replace(features, encoded=encode_features(features, output))
    if output.pool is not None:
        return replace(features, embedding=POOLS[output.pool](A))
    return replace(features, statistics=channel_statistics(A))


@stage("render")
def encode_features(features: FeatureMap, output: FeatureOutput) -> bytes:
    """The array or the picture that the output describes."""
    if output.format == "npy":
        return encode_npy(_array(features, output))
    return encode(_draw(features, output), output.format)


def _array(features: FeatureMap, output: FeatureOutput) -> Map:
    if features.influence is not None:
        return features.influence
    return features.activations if output.pool is None else POOLS[output.pool](features.activations)


def _draw(features: FeatureMap, output: FeatureOutput) -> Image.Image:
    match output.view:
        case "components":
            return _draw_components(features)
        case "channel":
            assert output.channel is not None
            return _draw_channel(features, output.channel, output.colormap)
        case "field":
            assert output.point is not None
            return _draw_receptive_field(features, *output.point)
        case "effective":
            assert output.point is not None
            return _draw_effective_field(features, *output.point)
        case _:
            return render_channels(features.activations, output.colormap, output.channels)


def _draw_components(features: FeatureMap) -> Image.Image:
    """The first three principal components as red, green and blue over the photo; unseen pixels are grey."""
    maps = scale_to_colours(principal_components(features.activations))
    planes = (np.nan_to_num(project_to_photo(one, features.image.geometry), nan=GREY) for one in maps)
    return Image.merge("RGB", [Image.fromarray(plane.round().astype(np.uint8)) for plane in planes])


def _draw_channel(features: FeatureMap, channel: int, colormap: str) -> Image.Image:
    """One channel from its minimum to its maximum over the photo; a constant one is cold everywhere."""
    heat = scale_channel(features.activations[channel])
    return render_heatmap(project_to_photo(heat, features.image.geometry), colormap)


def _draw_receptive_field(features: FeatureMap, x: float, y: float) -> Image.Image:
    """The photo, bright in the receptive field of the cell under (x, y), dark elsewhere, and grey where unseen."""
    image, photo = features.image, features.image.photo
    seen = image.geometry.seen
    field = field_at_point(image, features.layer, x, y)
    box = pixel_box(field.box, photo.size)
    picture = photo.convert("L").point(lambda v: v * SHADE).convert("RGB")
    picture.paste(photo.crop(seen).point(lambda v: v * SHADE), seen)
    picture.paste(photo.crop(box), box)
    outline_cell(picture, cell_box(image, field.cell, features.activations.shape[1:]), field.box)
    return picture


def _draw_effective_field(features: FeatureMap, x: float, y: float) -> Image.Image:
    """The influence of every pixel on the cell under (x, y), and the rectangle of the effective receptive field.

    The square root of the influence is drawn, so that small values stay visible beside great ones.
    """
    assert features.influence is not None
    image, field = features.image, effective_field(features.image, features.influence)
    heat = normalize(np.sqrt(features.influence), FULL_HEAT_QUANTILE)
    picture = overlay_heatmap(image.photo, heat, image.geometry, EFFECTIVE_COLORMAP, EFFECTIVE_ALPHA)
    cell = field_at_point(image, features.layer, x, y).cell
    box = cell_box(image, cell, features.activations.shape[1:])
    outline_cell(picture, box, field.box if field else None, PEAK_COLOUR)
    return picture
