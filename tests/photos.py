"""Synthetic photos: a marker of a pure colour at a known place on grey noise, encoded in any file format."""

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ORIENTATION = 0x0112
# The transposition that stores an upright photo under each EXIF orientation.
STORED_TRANSPOSES = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def draw_marker(
    size: tuple[int, int], centre: tuple[float, float], radius: float, colour: tuple[int, int, int] = (255, 0, 0)
) -> Image.Image:
    """A grey photo of `size` (width, height) with a square marker of side 2 * radius around `centre` (x, y)."""
    noise = np.random.default_rng(1).integers(90, 160, (size[1], size[0], 1), np.uint8)
    pixels = np.repeat(noise, 3, axis=2)
    x, y = centre
    left, right = max(0, round(x - radius)), max(1, round(x + radius))
    top, bottom = max(0, round(y - radius)), max(1, round(y + radius))
    pixels[top:bottom, left:right] = colour
    return Image.fromarray(pixels)


def encode_photo(photo: Image.Image, kind: str = "PNG", orientation: int | None = None, **options: object) -> bytes:
    """Encode a photo in a file format, stored under an EXIF orientation if one is given."""
    stream = io.BytesIO()
    if orientation is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        transpose = STORED_TRANSPOSES[orientation]
        photo = photo if transpose is None else photo.transpose(transpose)
        options["exif"] = exif
    photo.save(stream, kind, **options)
    return stream.getvalue()


def encode_tiff(
    pixels: NDArray[Any],
    *,
    order: Literal["<", ">"] = "<",
    compressed: bool = False,
    zero_is_white: bool = False,
    width: int | None = None,
    bits: int | None = None,
    extra: int | None = None,
    tags: Mapping[int, int] | None = None,
) -> bytes:
    """Encode pixels [H,W] or [H,W,channels] of any type as a TIFF file of one strip, as Pillow cannot.

    `order` is that of the bytes, `extra` the kind of the last channel (1: premultiplied alpha, 2: alpha). `bits` is the
    size of a sample if the pixels are packed, with their `width`. `tags` adds or replaces short tags.
    """
    size = pixels.dtype.itemsize
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if compressed else data
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    colour = 0 if zero_is_white else 2 if channels >= 3 else 1
    entries: dict[int, tuple[int, ...]] = {
        256: (width or pixels.shape[1],),
        257: (pixels.shape[0],),
        258: (bits or 8 * size,) * channels,
        259: (8 if compressed else 1,),  # Deflate, none
        262: (colour,),
        277: (channels,),
        278: (pixels.shape[0],),
        279: (len(data),),
        339: ({"u": 1, "i": 2, "f": 3}[pixels.dtype.kind],) * channels,
    } | ({} if extra is None else {338: (extra,)})
    entries |= {tag: (value,) for tag, value in (tags or {}).items()}
    end = 8 + 2 + 12 * (len(entries) + 1) + 4  # of the directory, where long values begin
    lengthy = b"".join(struct.pack(f"{order}{len(v)}H", *v) for v in entries.values() if len(v) > 2)
    entries[273] = (end + len(lengthy),)  # the strip
    directory, offset = b"", end
    for tag, values in sorted(entries.items()):
        kind = "I" if tag in (273, 279) else "H"
        field = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(field) > 4:
            field, offset = struct.pack(f"{order}I", offset), offset + len(field)
        directory += struct.pack(f"{order}HHI", tag, 4 if kind == "I" else 3, len(values)) + field.ljust(4, b"\0")
    magic = b"II" if order == "<" else b"MM"
    start = struct.pack(f"{order}HI", 42, 8) + struct.pack(f"{order}H", len(entries))
    return magic + start + directory + bytes(4) + lengthy + data
