"""Usage: csharp_multipart.py URL PHOTO: print the top class, and the number of bytes of the heatmap.

Sends what `MultipartFormDataContent` of C#'s HttpClient sends: the boundary in quotes, names without quotes, a
`filename*` beside the `filename`, no type for the image, a type for the text, and a body in chunks.
"""

import http.client
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

BOUNDARY = "7f1b1a55-0b8f-4c0e-9a5e-6d1f6f7d3c1e"
FILE = "Content-Disposition: form-data; name=image; filename=photo.jpg; filename*=utf-8''photo.jpg"
# `ContentDispositionHeaderValue` with `FileNameStar` alone, for a name that is not in ASCII.
FILE_STAR_ONLY = "Content-Disposition: form-data; name=image; filename*=utf-8''%E6%9D%B1.jpg"
TEXT = "Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name="


def encode_form(image_headers: str, photo: bytes, fields: dict[str, str]) -> Iterable[bytes]:
    """The parts of a form in chunks."""
    yield f"--{BOUNDARY}\r\n{image_headers}\r\n\r\n".encode()
    yield photo
    for name, value in fields.items():
        yield f"\r\n--{BOUNDARY}\r\n{TEXT}{name}\r\n\r\n{value}".encode()
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


def post(url: str, path: str, form: Iterable[bytes]) -> bytes:
    """Post a form and return the body of the response."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    headers = {"Content-Type": f'multipart/form-data; boundary="{BOUNDARY}"'}
    connection.request("POST", path, form, headers, encode_chunked=True)
    response = connection.getresponse()
    body = response.read()
    if response.status != http.client.OK:
        raise SystemExit(body.decode())
    return body


def main(url: str, photo: str) -> None:
    """Post a photo to `/predict` and `/cam`."""
    data = Path(photo).read_bytes()
    print(json.loads(post(url, "/predict", encode_form(FILE, data, {"top_k": "1"})))["predictions"][0]["label"])
    print(len(post(url, "/cam", encode_form(FILE_STAR_ONLY, data, {"format": "jpeg"}))))


main(*sys.argv[1:])
