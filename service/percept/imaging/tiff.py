"""TIFF files: which layouts of pixels are decoded, and the grey values of those that Pillow does not interpret.

A TIFF file opened by Pillow comes in. An unsupported layout leaves as a `NotAnImage` that describes it; grey values
leave as an array of the file's own type. It knows no limits and no colours.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from percept.errors import NotAnImage

# Tags of TIFF 6.0 and of DNG.
SUBFILE_TYPE, WIDTH, BITS, PHOTOMETRIC, SAMPLES, PLANES = 254, 256, 258, 262, 277, 284
EXTRA_SAMPLES, SAMPLE_FORMAT, DNG_VERSION = 338, 339, 50706
PREVIEW = 1  # a bit of SUBFILE_TYPE
SEPARATE = 2  # a value of PLANES
PREMULTIPLIED = 1  # a value of EXTRA_SAMPLES
UNSIGNED, SIGNED = (1,), (2,)  # values of SAMPLE_FORMAT
TYPES = {1: "unsigned integers", 2: "signed integers", 3: "floating-point numbers", 5: "complex integers"}
COLOURS = {0: "grey with 0 as white", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELAB"}
# libtiff returns the bytes of a number in the machine's order; Pillow takes them to be in the file's for these modes.
MACHINE_ORDER = {"F;32BF": "F;32NF", "I;32BS": "I;32NS", "I;16BS": "I;16NS"}


def check_layout(image: ImageFile) -> None:
    """Reject an opened TIFF file that Pillow would decode to wrong pixels, and correct the byte order of others.

    Raises `NotAnImage` for camera raw files, whose first image is a preview, and for some with separate planes.
    """
    tags = _tags(image)
    if DNG_VERSION in tags or tags.get(SUBFILE_TYPE, 0) & PREVIEW:
        raise NotAnImage("the bytes are a camera raw file, which begins with a preview: develop it to a JPEG or PNG")
    if not _are_planes_readable(image, tags):
        raise NotAnImage(f"the bytes are {_describe(tags)}, in separate planes: save the samples interleaved")
    image.tile = [_in_machine_order(tile) if tile.codec_name == "libtiff" else tile for tile in image.tile]


def describe_layout(data: bytes) -> str | None:
    """Describe the pixels of a TIFF file that Pillow cannot open; None if its directory cannot be read."""
    stream = io.BytesIO(data)
    try:
        tags = ImageFileDirectory_v2(stream.read(16 if 43 in data[2:4] else 8))  # 43: BigTIFF
        stream.seek(tags.next)
        tags.load(stream)
        return _describe(tags) if WIDTH in tags else None
    except Exception:  # a hostile header can make Pillow's parser raise nearly any exception
        return None


def is_special_grey(image: Image.Image) -> bool:
    """Whether an image holds grey values of another type than unsigned 8 bits, which Pillow would clip."""
    signed = image.mode == "L" and _tags(image).get(SAMPLE_FORMAT) == SIGNED
    return signed or image.mode in ("I", "F") or image.mode.startswith("I;")


def read_grey(image: Image.Image) -> tuple[NDArray[Any], int | None]:
    """The grey values [H,W] of a decoded image, and their full scale: None if it is not known from their type."""
    values, tags = np.asarray(image), _tags(image)
    if image.mode.startswith("I;16"):
        return values, 2 ** tags.get(BITS, (16,))[0] - 1
    if image.mode == "I" and tags.get(SAMPLE_FORMAT, UNSIGNED) == UNSIGNED:
        return values.view(np.uint32), None
    return values.view(np.int8) if image.mode == "L" else values, None


def is_white_zero(image: Image.Image) -> bool:
    """Whether 0 is white: Pillow inverts such grey of 8 bits, and leaves that of other types as it is."""
    return _tags(image).get(PHOTOMETRIC) == 0


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF file; none for other formats."""
    return getattr(image, "tag_v2", {})


def _in_machine_order(tile: Any) -> Any:
    rawmode, *others = tile.args
    return tile._replace(args=(MACHINE_ORDER.get(rawmode, rawmode), *others))


def _are_planes_readable(image: ImageFile, tags: Mapping[int, Any]) -> bool:
    """Whether Pillow decodes the samples rightly if they are in separate planes."""
    if tags.get(PLANES) != SEPARATE:
        return True
    if image.mode in ("LA", "La"):
        return False
    compressed = any(tile.codec_name == "libtiff" for tile in image.tile)
    return compressed or (max(tags.get(BITS, (1,))) <= 8 and PREMULTIPLIED not in tags.get(EXTRA_SAMPLES, ()))


def _describe(tags: Mapping[int, Any]) -> str:
    bits, kind = tags.get(BITS, (1,))[0], tags.get(SAMPLE_FORMAT, UNSIGNED)[0]
    colour = COLOURS.get(tags.get(PHOTOMETRIC, -1), "an unknown kind of pixels")
    numbers = f"{bits}-bit {TYPES.get(kind, 'numbers of an unknown type')}"
    return f"a TIFF file of {numbers} ({colour}, samples per pixel: {tags.get(SAMPLES, 1)})"
