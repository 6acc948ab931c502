"""The pictures of filters in a bundle: checked when it is loaded, cut into tiles when they are looked at.

They stay in memory as the PNG that they are, so that no file that changes later can break an answer. How the pictures
came to be is known to `models/` alone.
"""

import io
from pathlib import Path

from PIL import Image

from percept.bundle.manifest import FilterPicture
from percept.errors import BundleError


def load_picture(folder: Path, drawing: FilterPicture) -> bytes:
    """The PNG of a drawing; raises `BundleError` where it is none, or has no room for the tiles."""
    file = folder / drawing.file
    try:
        data = file.read_bytes()
        cut_tiles(data, drawing)
    except Exception as error:  # a broken PNG makes Pillow raise nearly anything
        raise BundleError(f"{file.name} is no picture of {drawing.kind}: {error}") from error
    return data


def cut_tiles(data: bytes, drawing: FilterPicture) -> list[Image.Image]:
    """The tiles of a drawing in the order of its channels, RGB; raises `ValueError` and what Pillow raises."""
    picture = Image.open(io.BytesIO(data), formats=("PNG",))
    (height, width), count = drawing.tile, max(1, len(drawing.channels))
    columns = picture.width // width
    if columns == 0 or picture.size != (columns * width, -(-count // columns) * height) or picture.mode != "RGB":
        raise ValueError(f"{picture.mode} of {picture.width} x {picture.height} holds no {count} of {width} x {height}")
    corners = ((k % columns * width, k // columns * height) for k in range(count))
    return [picture.crop((x, y, x + width, y + height)) for x, y in corners]
