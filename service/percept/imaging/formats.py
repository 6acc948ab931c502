"""The image formats that are decoded, and the names of other content, by its first bytes.

Bytes that Pillow did not open come in; the error that names them and the accepted formats leaves.
"""

from typing import NamedTuple

from percept.errors import BrokenImage, NotAnImage, PerceptError
from percept.imaging import tiff
from percept.process import register_image_decoders

# Pillow's names. Pillow decodes the first seven itself, the others if the packages of the extras are installed.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", *register_image_decoders())
EXTRAS = {"HEIF": "heif", "JXL": "jxl"}  # format → extra of `percept-serve`


class Signature(NamedTuple):
    """The bytes at an offset by which a kind of content is recognized; `format` is Pillow's name of an image format."""

    name: str
    magic: bytes
    offset: int = 0
    format: str | None = None


# The first match counts.
SIGNATURES = (
    Signature("a JPEG image", b"\xff\xd8\xff", format="JPEG"),
    Signature("a PNG image", b"\x89PNG", format="PNG"),
    Signature("a WebP image", b"WEBP", 8, "WEBP"),
    Signature("a GIF image", b"GIF8", format="GIF"),
    Signature("a camera raw file (CR2)", b"II*\0\x10\0\0\0CR"),
    Signature("a TIFF image", b"II*\0", format="TIFF"),
    Signature("a TIFF image", b"MM\0*", format="TIFF"),
    Signature("a TIFF image", b"II+\0", format="TIFF"),
    Signature("a TIFF image", b"MM\0+", format="TIFF"),
    Signature("an AVIF image", b"ftypavif", 4, "AVIF"),
    Signature("an AVIF image", b"ftypavis", 4, "AVIF"),
    *(Signature("a HEIC image", b"ftyp" + brand, 4, "HEIF") for brand in (b"hei", b"hev", b"mif1", b"msf1")),
    Signature("a JPEG XL image", b"\xff\x0a", format="JXL"),
    Signature("a JPEG XL image", b"\0\0\0\x0cJXL ", format="JXL"),
    Signature("a JPEG 2000 image", b"\0\0\0\x0cjP  "),
    Signature("a JPEG 2000 image", b"\xff\x4f\xff\x51"),
    Signature("a camera raw file (CR3)", b"ftypcrx", 4),
    Signature("a camera raw file (RAF)", b"FUJIFILM"),
    Signature("a camera raw file (ORF)", b"IIRO"),
    Signature("a camera raw file (RW2)", b"IIU\0"),
    Signature("a QuickTime video (MOV)", b"ftypqt", 4),
    Signature("an MP4 video", b"ftyp", 4),
    Signature("an AVI video", b"AVI ", 8),
    Signature("a Matroska or WebM video", b"\x1a\x45\xdf\xa3"),
    Signature("a WAV sound", b"WAVE", 8),
    Signature("an MP3 sound", b"ID3"),
    Signature("an Ogg stream", b"OggS"),
    Signature("a PDF document", b"%PDF"),
    Signature("a PostScript document", b"%!PS"),
    Signature("a Photoshop file (PSD)", b"8BPS"),
    Signature("an icon (ICO)", b"\0\0\1\0"),
    Signature("an icon (ICNS)", b"icns"),
    Signature("a DICOM file", b"DICM", 128),
    Signature("a NIfTI volume", b"n+1\0", 344),
    Signature("a FITS image", b"SIMPLE  ="),
    Signature("an OpenEXR image", b"\x76\x2f\x31\x01"),
    Signature("a Radiance HDR image", b"#?RADIANCE"),
    Signature("a DDS texture", b"DDS "),
    Signature("a QOI image", b"qoif"),
    *(Signature("a PNM image", b"P%d" % kind + space) for kind in range(1, 7) for space in (b"\n", b" ", b"\r")),
    Signature("an HDF5 file", b"\x89HDF"),
    Signature("a NumPy array (NPY)", b"\x93NUMPY"),
    Signature("a ZIP archive", b"PK\3\4"),
    Signature("gzip data", b"\x1f\x8b"),
    Signature("bzip2 data", b"BZh"),
    Signature("xz data", b"\xfd7zXZ"),
    Signature("Zstandard data", b"\x28\xb5\x2f\xfd"),
    Signature("a 7z archive", b"7z\xbc\xaf\x27\x1c"),
    Signature("a RAR archive", b"Rar!"),
    Signature("a tar archive", b"ustar", 257),
    Signature("a BMP image", b"BM", format="BMP"),
)
# How texts begin, in lower case; the first match counts.
TEXTS = {
    "<svg": "an SVG drawing",
    "<!doctype html": "an HTML page",
    "<html": "an HTML page",
    "<?xml": "an XML document",
    "data:": "a data URL instead of the bytes that it encodes",
    "/9j/": "base64 text instead of the bytes that it encodes",
    "ivborw0kggo": "base64 text instead of the bytes that it encodes",
    "{": "JSON text",
    "[": "JSON text",
    "": "text",
}
TEXT_BYTES = 512  # enough to tell text from other bytes


def explain_unopened(data: bytes, reason: str = "") -> PerceptError:
    """The error about bytes that Pillow did not open, for a `reason` if it gave one.

    `BrokenImage` if their signature is that of an accepted format, else `NotAnImage`, which names what they are.
    """
    found = next((s for s in SIGNATURES if data.startswith(s.magic, s.offset)), Signature("not an image", b""))
    accepted = found.format in FORMATS
    if (accepted or not found.magic) and (text := _describe_text(data[:TEXT_BYTES])):
        return _not_accepted(text)
    if not accepted:
        return _not_accepted(found.name, EXTRAS.get(found.format or ""))
    layout = tiff.describe_layout(data) if found.format == "TIFF" else None
    if layout:
        return NotAnImage(f"the bytes are {layout}, which is not decoded: save it as RGB or grey of 8 or 16 bits")
    return BrokenImage(": ".join(filter(None, [f"{found.name} whose header is broken or truncated", reason])))


def _not_accepted(name: str, extra: str | None = None) -> NotAnImage:
    remedy = f" (this one if the server has the package 'percept-serve[{extra}]')" if extra else ""
    return NotAnImage(f"the bytes are {name}; accepted formats are {', '.join(FORMATS)}{remedy}")


def _describe_text(data: bytes) -> str | None:
    """What kind of text the bytes are; None if they are none."""
    text = data.decode("utf-8-sig", "ignore")
    cut = len(data) - len(text.encode())  # a byte order mark, or a character cut off at the end
    if not text or cut > 3 or not all(c.isprintable() or c.isspace() for c in text):
        return None
    start = text.lstrip().lower()
    return next(name for prefix, name in TEXTS.items() if start.startswith(prefix))
