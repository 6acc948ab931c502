"""The archive formats of `/cam`: which files a response holds, and the containers `multipart/mixed` and ZIP.

Explanations of one image come in. `explanation_files` yields the prediction, numbers, maps and pictures as files, and
the functions in `ENCODERS` put them into one body. The same files always give the same bytes, so that an ETag may
identify them.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from fastapi.responses import Response
from pydantic import BaseModel

from percept.api.negotiation import MEDIA_TYPES
from percept.api.schemas.images import cams_answer, predict_answer
from percept.explain.explanation import Explanation
from percept.explain.presentation import (
    CamOutput,
    Style,
    draw_contact_sheet,
    draw_map,
    map_arrays,
    require_bounded,
    stack_maps,
)
from percept.explain.runner import RunOnWorker
from percept.imaging.encode import encode, encode_npy
from percept.imaging.geometry import Map
from percept.pipeline import TOP_K, Explained, Predicted
from percept.tasks.mask_picture import MaskPicture, encode_mask
from percept.telemetry.context import stage

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that ZIP can store
UNIX = 3  # the `create_system` of a ZIP entry
READABLE = 0o644 << 16  # the permissions of a ZIP entry

# The view → the name and the format of the file with the picture of one map.
PICTURE_FILES = {"overlay": ("overlay", "jpeg"), "sheet": ("overlay", "jpeg"), "heatmap": ("heatmap", "png")}
SUFFIXES = {"json": "json", "npy": "npy", "jpeg": "jpg", "png": "png"}


@dataclass(frozen=True, eq=False)
class ResponseFile:
    """One file of a response: its name, its format (a key of `MEDIA_TYPES`) and its bytes."""

    name: str
    format: str
    data: bytes


async def archive_response(
    explained: Explained, output: CamOutput, headers: dict[str, str], run_on_worker: RunOnWorker
) -> Response:
    """Encode all files of an explanation in one body. Each file is one job, so that other requests have their turns."""
    files: list[ResponseFile] = []
    rendering = explanation_files(explained, output.style)
    while (file := await run_on_worker(_render_next, rendering)) is not None:
        files.append(file)
    media_type, body = await run_on_worker(ENCODERS[output.format], files)
    if output.format == "zip":
        headers = {**headers, "Content-Disposition": f'attachment; filename="percept-{explained.image.id}.zip"'}
    return Response(body, media_type=media_type, headers=headers)


def explanation_files(explained: Explained, style: Style) -> Iterator[ResponseFile]:
    """Yield the files of a response, each rendered when it is requested, so that the caller may pause in between.

    `prediction.json` equals the answer of `/predict`, `cam.json` that of `/cam`. `map.npy` holds one map, or several of
    the same size stacked. The pictures of several maps, and maps of different sizes, are numbered from 0 in the order
    of `cam.json`. Raises `BadParameter` if the maps would be too large.
    """
    image, maps = explained.image, explained.maps
    require_bounded(maps)
    answer = image.task.predict(image.model.manifest, explained.logits, image.geometry, TOP_K)
    yield _json_file("prediction", predict_answer(Predicted(image, answer)), exclude_none=True)
    yield _json_file("cam", cams_answer(maps), exclude_none=False)
    if image.model.manifest.task == "segmentation":
        yield _file("mask", "png", encode_mask(image, explained.logits, MaskPicture("png")))
    yield from _array_files(map_arrays(maps, style))
    yield from _picture_files(maps, style)
    if style.view == "sheet":
        yield _file("sheet", "jpeg", encode(draw_contact_sheet(maps, style), "jpeg"))


def encode_multipart(files: Sequence[ResponseFile]) -> tuple[str, bytes]:
    """Encode files as `multipart/mixed` (RFC 2046): the media type with its boundary, and the body.

    Each part has the headers `Content-Type`, `Content-Disposition` with the file's name, and `Content-Length`.
    """
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


def encode_zip(files: Sequence[ResponseFile]) -> tuple[str, bytes]:
    """Encode files as a ZIP without compression, as pictures are compressed already: the media type and the body."""
    stream = io.BytesIO()
    with ZipFile(stream, "w", ZIP_STORED) as archive:
        for file in files:
            entry = ZipInfo(file.name, EPOCH)
            entry.create_system, entry.external_attr = UNIX, READABLE  # the same bytes on every system
            archive.writestr(entry, file.data)
    return MEDIA_TYPES["zip"], stream.getvalue()


ENCODERS = {"multipart": encode_multipart, "zip": encode_zip}


def _boundary(files: Sequence[ResponseFile]) -> str:
    """A boundary that occurs in no file: a hash of the files, so that the same files give the same boundary."""
    digest = sha256(b"".join(sha256(file.data).digest() for file in files))
    while any(digest.hexdigest().encode() in file.data for file in files):
        digest.update(b"again")
    return digest.hexdigest()


@stage("render")
def _render_next(files: Iterator[ResponseFile]) -> ResponseFile | None:
    """The next file; None after the last one."""
    return next(files, None)


def _array_files(maps: Sequence[Map]) -> Iterator[ResponseFile]:
    if len({array.shape for array in maps}) == 1:
        yield _file("map", "npy", encode_npy(stack_maps(maps)))
        return
    for number, array in enumerate(maps):
        yield _file(f"map.{number}", "npy", encode_npy(array))


def _picture_files(maps: Sequence[Explanation], style: Style) -> Iterator[ResponseFile]:
    name, format = PICTURE_FILES[style.view]
    for number, explanation in enumerate(maps):
        stem = name if len(maps) == 1 else f"{name}.{number}"
        yield _file(stem, format, encode(draw_map(explanation, style, style.legend), format))


def _json_file(stem: str, answer: BaseModel, exclude_none: bool) -> ResponseFile:
    return _file(stem, "json", answer.model_dump_json(exclude_none=exclude_none).encode())


def _file(stem: str, format: str, data: bytes) -> ResponseFile:
    return ResponseFile(f"{stem}.{SUFFIXES[format]}", format, data)
