"""The filter pictures of a bundle: checked when the bundle is loaded, cut into tiles when a client requests them.

The server keeps the PNG bytes in memory, so a file that changes after the load cannot break a response. This module
does not know how the pictures were made: the export toolchain makes them.
"""

import io
from pathlib import Path

from PIL import Image

from percept.bundle.manifest import FilterPicture
from percept.errors import BundleError


def load_picture(folder: Path, picture: FilterPicture) -> bytes:
    """The PNG bytes of a filter picture; raises `BundleError` where it is not a PNG of the stated tiles."""
    file = folder / picture.file
    try:
        data = file.read_bytes()
        cut_tiles(data, picture)
    except Exception as error:  # a broken PNG can make Pillow raise nearly any exception
        raise BundleError(f"{file.name} is not a picture of {picture.kind}: {error}") from error
    return data


def cut_tiles(data: bytes, picture: FilterPicture) -> list[Image.Image]:
    """The tiles of a filter picture as RGB images, in the order of its channels.

    Raises `ValueError` where mode or size differ from the manifest, and what Pillow raises.
    """
    image = Image.open(io.BytesIO(data), formats=("PNG",))
    (height, width), count = picture.tile, max(1, len(picture.channels))
    columns = image.width // width
    if columns == 0 or image.size != (columns * width, -(-count // columns) * height) or image.mode != "RGB":
        raise ValueError(
            f"{image.mode} of {image.width} x {image.height} pixels cannot hold {count} RGB tiles of {width} x {height}"
        )
    corners = ((k % columns * width, k // columns * height) for k in range(count))
    return [image.crop((x, y, x + width, y + height)) for x, y in corners]
