"""Several files in one answer: as `multipart/mixed` (RFC 2046) or as a ZIP.

The same files make the same bytes, always: an ETag may stand for them. It knows no model and no HTTP beyond that.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from percept.api.negotiation import MEDIA_TYPES

EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a ZIP knows
READABLE = 0o644 << 16  # permissions, as ZIP has them


@dataclass(frozen=True, eq=False)
class File:
    """One file of an answer: its name, which of `MEDIA_TYPES` it is, and its bytes."""

    name: str
    format: str
    data: bytes


def multipart(files: Sequence[File]) -> tuple[str, bytes]:
    """The media type with its boundary, and the body: each file with its type, name and length, bytes as they are."""
    boundary = _boundary(files)
    body = io.BytesIO()
    for file in files:
        head = (
            f"--{boundary}",
            f"Content-Type: {MEDIA_TYPES[file.format]}",
            f'Content-Disposition: attachment; filename="{file.name}"',
            f"Content-Length: {len(file.data)}",
            "\r\n",
        )
        body.write("\r\n".join(head).encode("ascii"))
        body.write(file.data)
        body.write(b"\r\n")
    body.write(f"--{boundary}--\r\n".encode("ascii"))
    return f"{MEDIA_TYPES['multipart']}; boundary={boundary}", body.getvalue()


def zipped(files: Sequence[File]) -> tuple[str, bytes]:
    """The media type, and a ZIP that stores its files as they are: pictures are compressed already."""
    stream = io.BytesIO()
    with ZipFile(stream, "w", ZIP_STORED) as archive:
        for file in files:
            entry = ZipInfo(file.name, EPOCH)
            entry.create_system, entry.external_attr = 3, READABLE  # on every system as on Unix
            archive.writestr(entry, file.data)
    return MEDIA_TYPES["zip"], stream.getvalue()


ARCHIVES = {"multipart": multipart, "zip": zipped}


def _boundary(files: Sequence[File]) -> str:
    """A boundary that occurs in no file, drawn from their own bytes: as good as random, and the same for the same."""
    seed = sha256(b"".join(sha256(file.data).digest() for file in files))
    while any(seed.hexdigest().encode() in file.data for file in files):
        seed.update(b"again")
    return seed.hexdigest()
