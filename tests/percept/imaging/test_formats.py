"""The names of content that is no accepted image, the decoders of the extras, and PNG files with large texts."""

import base64
import io
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from percept.bundle.preprocessing import Preprocessing
from percept.errors import BrokenImage, ImageTooLarge, NotAnImage
from percept.imaging.decode import decode, decode_reduced
from percept.imaging.formats import EXTRAS, FORMATS, SIGNATURES, TEXTS, Signature, explain_unopened
from tests.photos import draw_marker, encode_photo, encode_tiff

LIMITS = {"max_bytes": 10**8, "max_pixels": 10**6}
MODEL = Preprocessing(height=16, width=16)
# A red square around (8, 6) on grey, 40 x 24 pixels, stored under the orientation 6 by pillow-heif.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAcdtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAA"
    "AAAERAAAIAAQAAAAAB6wABAAAAAAAAALMAAgAAAAACngABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVp"
    "bmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAABBmlwcnAAAADlaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGE"
    "ABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAA"
    "ABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFwAAAAGAAAAAEAAAAoAAAAAf///9gAAAAC////6AAAAAIAAAAQcG"
    "l4aQAAAAADCAgIAAAACWlyb3QDAAAAGWlwbWEAAAAAAAAAAQABBoECAwWEhgAAABppcmVmAAAAAAAAAA5jZHNjAAIAAQABAAAA321kYXQAAACv"
    "KAGvBPIcZYcwcjVOo38dRbOTnSc+gC1hS+GwB6g1HSqYbiNd2Xf4Whyz0/+mJ1zta/VFTbHzJu9LIsP29hVQOR0pGmJ2ob5LT/fG6CnIWLYWCw"
    "VY+qv3wRd4fPvE51nPnMIle3WyOcXKfmEVYWINOqfjLFZD9JgK4RchBzi5VuRJOxI6e638V2MUqAAJr4oWomv8X0s60cG9J5an7oOLDdIIoCIH"
    "sJ/w3GJRqiT0qAAAAAZFeGlmAABNTQAqAAAACAABARIAAwAAAAEABgAAAAAAAA=="
)
NAMES = {
    "a HEIC image": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "an MP4 video": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2",
    "a QuickTime video (MOV)": b"\0\0\0\x14ftypqt  ",
    "a JPEG XL image": b"\0\0\0\x0cJXL \r\n\x87\n",
    "a JPEG 2000 image": b"\0\0\0\x0cjP  \r\n\x87\n",
    "an AVI video": b"RIFF\x24\0\0\0AVI LIST",
    "a WAV sound": b"RIFF\x24\0\0\0WAVEfmt ",
    "an icon (ICO)": b"\0\0\1\0\1\0",
    "a Photoshop file (PSD)": b"8BPS\0\1",
    "a DICOM file": bytes(128) + b"DICM",
    "a NumPy array (NPY)": b"\x93NUMPY\1\0",
    "a ZIP archive": b"PK\3\4\x14\0",
    "gzip data": b"\x1f\x8b\x08\0",
    "a camera raw file (CR2)": b"II*\0\x10\0\0\0CR\2\0",
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3",
    "a PNM image": b"P6\n1 1\n255\nabc",
    "an SVG drawing": b"\xef\xbb\xbf<svg xmlns='http://www.w3.org/2000/svg'/>",
    "an HTML page": b"\n<!DOCTYPE html><html>",
    "an XML document": b"<?xml version='1.0'?>",
    "JSON text": b'{"image": 1}',
    "base64 text": base64.b64encode(encode_photo(Image.new("RGB", (40, 40)), "JPEG")),
    "a data URL": b"data:image/png;base64,iVBORw0KGgo",
    "text": "BMW ist ein Auto, für jeden".encode(),
    "not an image": bytes(100),
}


@pytest.mark.parametrize("name", NAMES)
def test_refusal_names_the_content_and_the_accepted_formats(name: str) -> None:
    data = NAMES[name] + bytes(500) if b"\0" in NAMES[name] else NAMES[name]
    found = explain_unopened(data)
    if isinstance(found, BrokenImage):
        assert name in ("a HEIC image", "a JPEG XL image")
        pytest.skip("the decoder is installed")
    with pytest.raises(NotAnImage, match="accepted formats are JPEG, PNG, WEBP") as caught:
        decode(data, **LIMITS)
    assert f"the bytes are {name}" in str(caught.value)


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda signature: f"{signature.name} {signature.magic!r}")
def test_every_signature_is_found(signature: Signature) -> None:
    data = (bytes(signature.offset) + signature.magic).ljust(600, b"\1")
    error = explain_unopened(data)
    assert signature.name in str(error)
    assert isinstance(error, BrokenImage if signature.format in FORMATS else NotAnImage)


def test_every_beginning_of_a_text_is_found() -> None:
    for beginning, name in TEXTS.items():
        assert f"the bytes are {name};" in str(explain_unopened(f" {beginning} ...".encode()))


@pytest.mark.parametrize(("name", "format"), [("HEIC", "HEIF"), ("JPEG XL", "JXL")])
def test_missing_decoders_are_named_with_their_extras(name: str, format: str) -> None:
    signature = next(each for each in SIGNATURES if each.format == format)
    data = (bytes(signature.offset) + signature.magic).ljust(40, b"\1")
    code = (
        "import sys\n"
        "sys.modules['pi_heif'] = sys.modules['pylibjxl'] = None\n"
        "from percept.imaging.formats import explain_unopened\n"
        f"print(explain_unopened({data!r}))\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"the bytes are a {name} image; accepted formats are JPEG," in printed
    assert f"'percept-serve[{EXTRAS[format]}]'" in printed


def test_heic_is_decoded_upright() -> None:
    pytest.importorskip("pi_heif")
    photo, geometry = decode_reduced(MODEL, HEIC, **LIMITS)
    assert photo.size == geometry.size == decode(HEIC, **LIMITS).size == (40, 24)
    pixels = np.asarray(photo).astype(int)
    assert np.abs(pixels[6, 8] - (255, 0, 0)).max() < 20
    assert np.abs(pixels[20, 30] - (120, 120, 120)).max() < 20


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_jpeg_xl_is_decoded_upright(orientation: int) -> None:
    pylibjxl = pytest.importorskip("pylibjxl")
    jpeg = encode_photo(draw_marker((40, 24), (8, 6), 4), "JPEG", orientation, quality=95)
    photo, geometry = decode_reduced(MODEL, pylibjxl.jpeg_to_jxl(jpeg), **LIMITS)
    assert photo.size == geometry.size == (40, 24)
    assert np.abs(np.asarray(photo).astype(int) - np.asarray(decode(jpeg, **LIMITS))).max() < 16


def test_exif_orientation_of_jpeg_xl_does_not_turn_it() -> None:
    """ISO/IEC 18181-2: the orientation of the codestream takes precedence."""
    pytest.importorskip("pylibjxl")
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode_photo(Image.new("RGB", (40, 24), "red"), "JXL", lossless=True, exif=exif.tobytes())
    assert decode_reduced(MODEL, data, **LIMITS)[1].size == (40, 24)


def test_transparent_jpeg_xl_lies_over_white() -> None:
    pytest.importorskip("pylibjxl")
    data = encode_photo(Image.new("RGBA", (8, 8), (255, 0, 0, 51)), "JXL", lossless=True)
    assert decode(data, **LIMITS).getpixel((3, 3)) == (255, 204, 204)


def test_decoders_of_extras_keep_the_limit_on_pixels() -> None:
    pytest.importorskip("pi_heif")
    pytest.importorskip("pylibjxl")
    jxl = encode_photo(draw_marker((1500, 1200), (0, 0), 1), "JXL")
    with pytest.raises(ImageTooLarge, match="1500 x 1200"):
        decode(jxl[:1000], **LIMITS)  # without most of the pixels
    with pytest.raises(ImageTooLarge, match="40 x 24"):
        decode(HEIC, 10**6, 100)


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_truncated_files_of_extras_are_broken(kind: str) -> None:
    if kind not in FORMATS:
        pytest.skip("the decoder is not installed")
    data = HEIC if kind == "HEIF" else encode_photo(draw_marker((40, 24), (8, 6), 4), "JXL")
    for share in (0.1, 0.5, 0.95):
        with pytest.raises(BrokenImage):
            decode(data[: int(len(data) * share)], **LIMITS)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [("f8", "64-bit floating-point numbers"), ("f2", "16-bit floating-point"), ("u8", "64-bit unsigned integers")],
)
def test_unsupported_tiff_is_described(dtype: str, name: str) -> None:
    with pytest.raises(NotAnImage, match=f"a TIFF file of {name}.* save it as RGB or grey of 8 or 16 bits"):
        decode(encode_tiff(np.ones((4, 8), dtype)), **LIMITS)


def test_floating_point_colours_of_tiff_are_described() -> None:
    with pytest.raises(NotAnImage, match=r"32-bit floating-point numbers \(RGB, samples per pixel: 3\)"):
        decode(encode_tiff(np.ones((4, 8, 3), np.float32)), **LIMITS)


def test_sixteen_bit_planes_of_tiff_are_described() -> None:
    data = encode_tiff(np.ones((4, 8, 3), np.uint16), tags={284: 2})
    with pytest.raises(NotAnImage, match=r"16-bit unsigned integers .* in separate planes"):
        decode(data, **LIMITS)


@pytest.mark.parametrize("tags", [{254: 1}, {50706: 1}])
def test_previews_of_camera_raw_files_are_not_decoded(tags: dict[int, int]) -> None:
    with pytest.raises(NotAnImage, match="camera raw file"):
        decode(encode_tiff(np.ones((4, 8), np.uint8), tags=tags), **LIMITS)


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "iCCP"])
def test_png_with_large_texts_is_decoded(kind: str) -> None:
    """An orientation that comes before them is still applied."""
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    if kind == "iTXt":
        info.add_itxt("note", "a" * 3_000_000, zip=True)
    elif kind != "iCCP":
        info.add_text("note", "a" * 3_000_000, zip=kind == "zTXt")
    info.add_text("further", "b" * 3_000_000, zip=True)
    profile = bytes(3_000_000) if kind == "iCCP" else None
    data = encode_photo(Image.new("RGB", (24, 40), "red"), "PNG", pnginfo=info, icc_profile=profile)
    photo = decode(data, **LIMITS)
    assert (photo.size, photo.getpixel((5, 5))) == ((40, 24), (255, 0, 0))


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_compressed_texts_of_png_are_not_inflated_in_full(kind: bytes) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    heads = {b"iCCP": b"n\0\0", b"zTXt": b"n\0\0", b"iTXt": b"n\0\1\0\0\0"}
    bomb = chunk(kind, heads[kind] + zlib.compress(bytes(1_000_000), 9)) * 3000  # 3 GB, which take several seconds
    png = encode_photo(Image.new("RGB", (24, 40), "red"))
    begin = time.process_time()
    assert decode(png[:33] + bomb + png[33:], **LIMITS).size == (24, 40)
    assert decode(png[:-12] + bomb + png[-12:], **LIMITS).size == (24, 40)
    assert time.process_time() - begin < 1


def test_broken_pixels_of_png_remain_broken() -> None:
    png = encode_photo(draw_marker((40, 24), (8, 6), 4))
    with pytest.raises(BrokenImage):
        decode(png[:60] + bytes(20) + png[80:], **LIMITS)


def test_animated_png_is_decoded() -> None:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    assert decode(stream.getvalue(), **LIMITS).getpixel((2, 2)) == (255, 0, 0)
