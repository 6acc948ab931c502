"""How explanations are shown: one over its photo, several side by side, or as arrays.

Explanations and a `Style` come in, pictures and arrays leave. It knows no HTTP, and no encoding.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from percept.errors import BadParameter
from percept.explain.maps import peak
from percept.explain.question import Explanation
from percept.explain.receptive_field import cell_box, field_of_peak
from percept.imaging.decode import Map, spread
from percept.imaging.overlay import COLORMAPS, HOTTEST, heatmap, mark, overlay
from percept.imaging.sheet import Tile, sheet, with_legend
from percept.tasks.input_image import View

SHEET_PIXELS = 640  # the longer side of a photo on a sheet
MAX_PIXELS = 2**26  # of all maps in one answer together, where there are several as large as the photo


class Style(BaseModel):
    """The parameters that say how a map is shown."""

    view: Literal["overlay", "heatmap", "sheet"] = "overlay"
    by: Literal["methods", "classes", "layers"] | None = Field(None, description="what a sheet compares")
    alpha: float = Field(0.75, ge=0, le=1, description="opacity of the hottest place")
    colormap: Literal[COLORMAPS] = "inferno"  # type: ignore[valid-type]
    legend: bool = Field(False, description="draw the colours' meaning below the picture")
    field: bool | Literal["effective"] = Field(
        False,
        description="outline the hottest cell and the rectangle of the photo that it can see; `effective`: that from "
        "where it is moved in this photo, by its gradient at the image",
    )
    size: Literal["map", "photo"] = Field("map", description="npy, multipart, zip: in cells or in photo pixels")
    scale: Literal["raw", "unit"] = Field("raw", description="npy, multipart, zip: before ReLU, or in [0,1]")


def picture(explanation: Explanation, style: Style) -> Image.Image:
    """The map over the photo or bare, as large as the photo; with a legend higher by that."""
    drawn = _drawn(explanation, style)
    if not style.legend:
        return drawn
    top = max(float(explanation.raw.max()), 0)
    return with_legend(drawn, style.colormap, "0", f"{top:.3g}", _title(explanation))


def contact(found: Sequence[Explanation], style: Style) -> Image.Image:
    """A contact sheet of several maps of one image, each with what it shows."""
    small = _small(found[0].view)
    drawn = sheet([_tile(replace(one, view=small), style) for one in found])
    return with_legend(drawn, style.colormap, "0", "1", "of each map's maximum") if style.legend else drawn


def arrays(found: Sequence[Explanation], style: Style) -> list[Map]:
    """Every map as float32 [h,w], in cells or in pixels of the photo, before ReLU or in [0,1]."""
    values = [one.raw if style.scale == "raw" else one.heat for one in found]
    if style.size == "map":
        return values
    bounded(found)
    return [spread(one, found[0].view.geometry) for one in values]


def stacked(maps: Sequence[Map]) -> Map:
    """One map [h,w], or several [n,h,w]; raises `BadParameter` where they differ in size."""
    if len({one.shape for one in maps}) > 1:
        raise BadParameter("the layers have maps of different sizes: ask for size=photo, or one by one")
    return maps[0] if len(maps) == 1 else np.stack(maps)


def bounded(found: Sequence[Explanation]) -> None:
    """Raises `BadParameter` where maps as large as the photo would be too much for one answer."""
    width, height = found[0].view.geometry.size
    if len(found) > 1 and len(found) * width * height > MAX_PIXELS:
        raise BadParameter(
            f"{len(found)} maps of {width} x {height} pixels are too much at once: {MAX_PIXELS} pixels are the most; "
            "ask for fewer, or send a smaller photo"
        )


def _drawn(explanation: Explanation, style: Style) -> Image.Image:
    view = explanation.view
    if style.view == "heatmap":
        drawn = heatmap(spread(explanation.heat, view.geometry), style.colormap)
    else:
        drawn = overlay(view.photo, explanation.heat, view.geometry, style.colormap, style.alpha)
    return _marked(drawn, explanation) if style.field else drawn


def _marked(drawn: Image.Image, explanation: Explanation) -> Image.Image:
    """The picture with the hottest cell outlined, and what it can see."""
    cell = peak(explanation.heat)
    if cell is None:
        return drawn
    drawn = drawn.convert("RGBA" if drawn.has_transparency_data else "RGB")
    field = field_of_peak(explanation)
    mark(drawn, cell_box(explanation.view, cell, explanation.heat.shape), field.shown if field else None, HOTTEST)
    return drawn


def _small(view: View) -> View:
    """The same view of a photo of at most `SHEET_PIXELS`."""
    geometry = view.geometry.scaled(min(1.0, SHEET_PIXELS / max(view.geometry.size)))
    photo = view.photo.resize((geometry.width, geometry.height), Image.Resampling.BICUBIC)
    return replace(view, decoded=photo, geometry=geometry)


def _tile(explanation: Explanation, style: Style) -> Tile:
    said = {"classes": _title(explanation), "methods": explanation.method, "layers": explanation.layer}
    title = said.pop(style.by or "classes")
    trust = explanation.faithfulness
    numbers = trust.areas if trust else f"score {explanation.score:.3g}"
    return Tile(_drawn(explanation, style), title, f"{', '.join(said.values())}; {numbers}")


def _title(explanation: Explanation) -> str:
    labels = explanation.view.model.manifest.labels
    against = "" if explanation.against is None else f", not {labels[explanation.against]}"
    return labels[explanation.target] + against
