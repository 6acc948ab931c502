"""How maps are shown: one over its photo, several on a contact sheet, or as arrays; and a response of `/cam` in bytes.

Explanations and a `Style` come in; pictures, arrays and encoded bytes leave. It knows no HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from percept.errors import BadParameter
from percept.explain.explanation import Explanation
from percept.explain.maps import find_peak
from percept.explain.receptive_field import cell_box, field_at_peak
from percept.explain.regions import Threshold
from percept.imaging.colormaps import COLORMAPS, render_heatmap
from percept.imaging.encode import encode, encode_npy
from percept.imaging.geometry import Map, project_to_photo
from percept.imaging.legend import add_legend
from percept.imaging.overlay import PEAK_COLOUR, outline_cell, overlay_heatmap
from percept.imaging.sheet import Tile, render_sheet
from percept.tasks.input_image import InputImage
from percept.telemetry.context import stage

ENCODED_FORMATS = ("npy", "jpeg", "png", "webp")  # of responses that are one picture or array
SHEET_PHOTO_PIXELS = 640  # the longer side of a photo on a contact sheet
MAX_PHOTO_MAP_PIXELS = 2**26  # of all maps of one response, if there are several at the photo's size


class Style(BaseModel):
    """The parameters that say how a map is shown."""

    model_config = ConfigDict(frozen=True)

    view: Literal["overlay", "heatmap", "sheet"] = Field(
        "overlay", description="the map over the photo, the map alone, or several maps side by side"
    )
    by: Literal["methods", "classes", "layers"] | None = Field(None, description="what a sheet compares")
    alpha: float = Field(0.75, ge=0, le=1, description="opacity of the overlay where the map has its maximum")
    colormap: Literal[COLORMAPS] = Field("inferno", description="colours of the map")  # type: ignore[valid-type]
    legend: bool = Field(False, description="draw the meaning of the colours below the picture")
    field: bool | Literal["effective"] = Field(
        False,
        description="outline the hottest cell and its receptive field; `effective`: its effective receptive field in "
        "this photo, computed from the cell's gradient at the image",
    )
    size: Literal["map", "photo"] = Field("map", description="npy, multipart, zip: in cells or in photo pixels")
    scale: Literal["raw", "unit"] = Field("raw", description="npy, multipart, zip: before ReLU, or in [0,1]")


@dataclass(frozen=True)
class CamOutput:
    """What a response of `/cam` holds: its format, the style of its pictures, and the threshold of hot regions."""

    format: str
    style: Style
    boxes: Threshold | None = None


@stage("render")
def encode_maps(explanations: Sequence[Explanation], output: CamOutput) -> bytes:
    """One picture or array of one or several maps, in the format of the output."""
    style = output.style
    if output.format == "npy":
        return encode_npy(stack_maps(map_arrays(explanations, style)))
    single = len(explanations) == 1 and style.view != "sheet"
    picture = draw_map(explanations[0], style, style.legend) if single else draw_contact_sheet(explanations, style)
    return encode(picture, output.format)


def draw_map(explanation: Explanation, style: Style, legend: bool = False) -> Image.Image:
    """The map over the photo or alone, as large as the photo; a legend is added below it."""
    image = explanation.image
    if style.view == "heatmap":
        picture = render_heatmap(project_to_photo(explanation.heat, image.geometry), style.colormap)
    else:
        picture = overlay_heatmap(image.photo, explanation.heat, image.geometry, style.colormap, style.alpha)
    if style.field:
        picture = _outline_peak(picture, explanation)
    if legend:
        top = max(float(explanation.raw.max()), 0)
        picture = add_legend(picture, style.colormap, "0", f"{top:.3g}", _title(explanation))
    return picture


def draw_contact_sheet(explanations: Sequence[Explanation], style: Style) -> Image.Image:
    """Several maps of one image side by side, each with its title and numbers."""
    small = _scale_down(explanations[0].image)
    sheet = render_sheet([_tile(replace(one, image=small), style) for one in explanations])
    return add_legend(sheet, style.colormap, "0", "1", "of each map's maximum") if style.legend else sheet


def map_arrays(explanations: Sequence[Explanation], style: Style) -> list[Map]:
    """Every map as float32 [h,w]: in cells or photo pixels, before ReLU or in [0,1]."""
    maps = [one.raw if style.scale == "raw" else one.heat for one in explanations]
    if style.size == "map":
        return maps
    require_bounded(explanations)
    return [project_to_photo(one, explanations[0].image.geometry) for one in maps]


def stack_maps(maps: Sequence[Map]) -> Map:
    """One map [h,w], or several [n,h,w]; raises `BadParameter` if their sizes differ."""
    if len({one.shape for one in maps}) > 1:
        raise BadParameter("the maps of these layers differ in size: use size=photo, or one layer per request")
    return maps[0] if len(maps) == 1 else np.stack(maps)


def require_bounded(explanations: Sequence[Explanation]) -> None:
    """Raise `BadParameter` if several maps at the photo's size would be too large for one response."""
    width, height = explanations[0].image.geometry.size
    if len(explanations) > 1 and len(explanations) * width * height > MAX_PHOTO_MAP_PIXELS:
        raise BadParameter(
            f"{len(explanations)} maps of {width} x {height} pixels have more than {MAX_PHOTO_MAP_PIXELS} pixels "
            "together; request fewer maps, or send a smaller photo"
        )


def _outline_peak(picture: Image.Image, explanation: Explanation) -> Image.Image:
    """The picture with outlines around the hottest cell and its receptive field."""
    cell = find_peak(explanation.heat)
    if cell is None:
        return picture
    picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    field = field_at_peak(explanation)
    box = cell_box(explanation.image, cell, explanation.heat.shape)
    outline_cell(picture, box, field.outline if field else None, PEAK_COLOUR)
    return picture


def _scale_down(image: InputImage) -> InputImage:
    """The same input image with a photo of at most `SHEET_PHOTO_PIXELS`."""
    geometry = image.geometry.scaled(min(1.0, SHEET_PHOTO_PIXELS / max(image.geometry.size)))
    photo = image.photo.resize(geometry.size, Image.Resampling.BICUBIC)
    return replace(image, decoded=photo, geometry=geometry)


def _tile(explanation: Explanation, style: Style) -> Tile:
    texts = {"classes": _title(explanation), "methods": explanation.method, "layers": explanation.layer}
    title = texts.pop(style.by or "classes")
    faithfulness = explanation.faithfulness
    numbers = faithfulness.caption if faithfulness else f"score {explanation.score:.3g}"
    return Tile(draw_map(explanation, style), title, f"{', '.join(texts.values())}; {numbers}")


def _title(explanation: Explanation) -> str:
    labels = explanation.image.model.manifest.labels
    against = "" if explanation.against is None else f", not {labels[explanation.against]}"
    return labels[explanation.target] + against
