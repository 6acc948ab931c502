"""The report of an evaluation: table.md, table.json and sheet.png.

A `Report` comes in, files in one folder leave. It runs no network.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from percept.evaluation.baselines import BASELINES
from percept.evaluation.measurement import MeasuredPhoto, Measurement
from percept.evaluation.table import summarize_methods, to_json, to_markdown
from percept.imaging.overlay import overlay_heatmap
from percept.imaging.sheet import Tile, render_sheet

SHEET_PHOTOS = 6  # the number of photos on the sheet
SHEET_PHOTO_PIXELS = 640  # the longer side of a photo on the sheet
COLORMAP, ALPHA = "inferno", 0.75
NOTE = """Mean over the photos ± its standard error, of the top class of each; ms is the median time from the layer to
the map. Deletion and insertion are areas under the curve of the score while the hottest pixels are removed first, or
inserted first into the blurred image. Maps in italics are baselines, which do not use the network: a method that is
not better than they are explains nothing."""


@dataclass(frozen=True, eq=False)
class Report:
    """What was measured: `measurements` by method or baseline, and the photos to show.

    `left_out` methods and `skipped` photos are named with the reason.
    """

    model: str
    layer: str
    photos: int
    measurements: Mapping[str, Sequence[Measurement]]
    shown: Sequence[MeasuredPhoto]
    left_out: Mapping[str, str]
    skipped: Mapping[str, str]


def write_report(report: Report, out: Path) -> str:
    """Write the three files into the folder `out`; returns the table in Markdown."""
    rows = summarize_methods(report.measurements)
    data = {
        "model": report.model,
        "layer": report.layer,
        "photos": report.photos,
        "skipped": report.skipped,
        "left_out": report.left_out,
        "rows": to_json(rows, list(BASELINES)),
    }
    table = to_markdown(rows, list(BASELINES))
    paragraphs = [
        f"# {report.model} at {report.layer}, {report.photos} photo{'s' * (report.photos > 1)}",
        table,
        NOTE,
        *(f"Left out: {name}, {reason}." for name, reason in report.left_out.items()),
        *(f"Skipped: {name}, {reason}." for name, reason in report.skipped.items()),
    ]
    (out / "table.json").write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (out / "table.md").write_text("\n\n".join(paragraphs) + "\n", "utf-8")
    _draw_sheet(report.shown, list(rows)).save(out / "sheet.png")
    return table


def _draw_sheet(photos: Sequence[MeasuredPhoto], names: Sequence[str]) -> Image.Image:
    """One row for each photo: the photo, then its map by every method."""
    tiles = [tile for photo in photos for tile in _draw_row(photo, names)]
    return render_sheet(tiles, len(names) + 1)


def _draw_row(photo: MeasuredPhoto, names: Sequence[str]) -> list[Tile]:
    image = photo.image
    geometry = image.geometry.scaled(min(1.0, SHEET_PHOTO_PIXELS / max(image.geometry.size)))
    small = image.photo.resize(geometry.size, Image.Resampling.BICUBIC)
    tiles = [Tile(small, f"{photo.label}, {photo.score:.2f}", image.id)]
    for name in names:
        picture = overlay_heatmap(small, photo.heats[name], geometry, COLORMAP, ALPHA)
        title = f"{name} (baseline)" if name in BASELINES else name
        tiles.append(Tile(picture, title, photo.measurements[name].faithfulness.caption))
    return tiles
