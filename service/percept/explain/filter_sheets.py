"""Sheets of the filter pictures of a bundle: kernels, activation maximisation, inversion.

Descriptions from the manifest and PNG bytes by file name come in; one RGB picture leaves. This module does not choose
the pictures, and does not know how they were made.
"""

from collections.abc import Mapping, Sequence

from PIL import Image

from percept.bundle.filters import cut_tiles
from percept.bundle.manifest import FilterKind, FilterPicture
from percept.errors import UnknownFilters
from percept.imaging.sheet import Tile, render_sheet
from percept.imaging.text import BACKGROUND

TILE_PIXELS: dict[FilterKind, int] = {"kernels": 48, "maxima": 160, "inversion": 224}  # the side of a tile on a sheet
KERNEL_PIXELS = 240  # the approximate longer side of a kernel that is shown alone


def render_filter_sheet(pictures: Sequence[FilterPicture], files: Mapping[str, bytes]) -> Image.Image:
    """Render all tiles of pictures of one kind under the names of their channels; maxima have a row for each layer."""
    side = TILE_PIXELS[pictures[0].kind]
    rows = [_tiles(picture, files[picture.file], side) for picture in pictures]
    if pictures[0].kind != "maxima" or len(rows) == 1:
        return render_sheet([tile for row in rows for tile in row], None, side)
    columns = max(map(len, rows))
    blank = Tile(Image.new("RGB", (side, side), BACKGROUND), "")
    return render_sheet([tile for row in rows for tile in [*row, *[blank] * (columns - len(row))]], columns, side)


def render_filter(picture: FilterPicture, files: Mapping[str, bytes], channel: int) -> Image.Image:
    """Render the tile of one channel: maxima pixel for pixel, kernels enlarged; raises `UnknownFilters`."""
    if channel not in picture.channels:
        shown = ", ".join(map(str, picture.channels))
        raise UnknownFilters(f"the bundle has {picture.kind} of the channels {shown}, not of {channel}")
    tile = cut_tiles(files[picture.file], picture)[picture.channels.index(channel)]
    return _enlarge(tile, KERNEL_PIXELS) if picture.kind == "kernels" else tile


def _tiles(picture: FilterPicture, data: bytes, side: int) -> list[Tile]:
    tiles = cut_tiles(data, picture)
    if picture.kind == "kernels":
        return [Tile(_enlarge(tile, side), str(k)) for tile, k in zip(tiles, picture.channels, strict=True)]
    if picture.kind == "inversion":
        return [Tile(tiles[0], str(picture.layer), f"error {picture.scores[0]:.2g}")]
    rows = zip(tiles, picture.channels, picture.scores, picture.noise, strict=True)
    return [Tile(tile, f"{picture.layer} {k}", f"{score:.3g} (noise {noise:.2g})") for tile, k, score, noise in rows]


def _enlarge(kernel: Image.Image, side: int) -> Image.Image:
    """Enlarge a kernel by a whole factor, so that every weight is a square, to a longer side of about `side` pixels."""
    factor = max(1, round(side / max(kernel.size)))
    return kernel.resize((factor * kernel.width, factor * kernel.height), Image.Resampling.NEAREST)
