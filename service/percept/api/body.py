"""Images from a request body: raw bytes, multipart file parts, or JSON with base64.

A request comes in; the encoded images leave as bytes, in order. The size is checked while the body is received, so
that no client can fill the memory. This module does not know whether the bytes are an image.
"""

import base64
import binascii
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from percept.errors import BadRequest, ImageTooLarge, UnsupportedMediaType, format_validation_errors
from percept.settings import Settings
from percept.telemetry.context import stage

MULTIPART = "multipart/form-data"
JSON = "application/json"
# The last one is what `curl --data-binary @photo.jpg` sends by default; the first means that the header is missing.
RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")
# Bytes that a body may have besides its images: boundaries, part headers, JSON punctuation.
ENVELOPE_BYTES = 64 * 2**10
MAX_FORM_FIELDS = 16  # in a multipart body; they are ignored

Base64 = Annotated[str, StringConstraints(min_length=1)]


class ImageBody(BaseModel):
    """A request body in JSON."""

    model_config = ConfigDict(extra="forbid")

    image: Base64 = Field(description="the encoded image in base64, or as a data URL")


REQUEST_BODY = {
    "required": True,
    "description": "The image: as a raw body, as a multipart file part, or in base64.",
    "content": {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        MULTIPART: {
            "schema": {
                "type": "object",
                "properties": {"image": {"type": "string", "format": "binary"}},
            }
        },
        JSON: {
            "schema": ImageBody.model_json_schema(),
            "example": {
                "image": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
            },
        },
    },
}


async def read_images(request: Request, settings: Settings) -> list[bytes]:
    """Receive the encoded images of a request, in order, at least one.

    The bytes are not checked to be images. Raises `BadRequest`, `UnsupportedMediaType` or `ImageTooLarge`.
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    limit = settings.max_image_bytes
    with stage("receive"):
        if media_type == MULTIPART:
            return await _read_files(request, settings)
        if media_type == JSON:
            return [_decode_json(await read_body(request, limit * 4 // 3 + ENVELOPE_BYTES, required=True))]
        if media_type in RAW or media_type.startswith("image/"):
            return [await read_body(request, limit, required=True)]
        raise UnsupportedMediaType(
            f"a body of type {media_type} is not supported; "
            f"send image/*, application/octet-stream, {MULTIPART} or {JSON}"
        )


async def read_image(request: Request, settings: Settings) -> bytes:
    """Receive the single encoded image of a request; raises as `read_images`, and `BadRequest` for several images."""
    images = await read_images(request, settings)
    if len(images) > 1:
        raise BadRequest(f"this endpoint takes one image, not {len(images)}")
    return images[0]


async def read_body(request: Request, limit: int, required: bool = False) -> bytes:
    """Receive a body of at most `limit` bytes; raises `ImageTooLarge`, `ClientDisconnect`, or `BadRequest` if empty.

    Nearly every request runs this function, so it reads the ASGI messages without generators, unlike `_stream`.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise ImageTooLarge(f"the body has {int(declared)} bytes; at most {limit} are accepted")
    chunks: list[bytes] = []
    total, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        total, more = total + len(chunk), message.get("more_body", False)
        if total > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    if required and not total:
        raise BadRequest("the body is empty; send an image")
    return b"".join(chunks)


class _InMemoryParser(MultiPartParser):
    """Starlette's parser without temporary files: the body is bounded, and the root may be read-only."""

    spool_max_size = 2**40


async def _read_files(request: Request, settings: Settings) -> list[bytes]:
    limit = settings.max_image_bytes * settings.max_images + ENVELOPE_BYTES
    parser = _InMemoryParser(
        request.headers, _stream(request, limit), max_files=settings.max_images, max_fields=MAX_FORM_FIELDS
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise BadRequest(f"the multipart body cannot be parsed: {error}") from error
    files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    if not files:
        raise BadRequest("the multipart body has no file part")
    return [await file.read() for file in files]


async def _stream(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of a body of at most `limit` bytes; raises `ImageTooLarge`."""
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limit:
            raise _too_large(limit)
        yield chunk


def _too_large(limit: int) -> ImageTooLarge:
    return ImageTooLarge(f"the body has more than {limit} bytes, which is the limit")


def _decode_json(body: bytes) -> bytes:
    """The image in a JSON body; raises `BadRequest`."""
    try:
        text = ImageBody.model_validate_json(body).image
    except ValidationError as error:
        reason = format_validation_errors(error)
        raise BadRequest(f'the body is not JSON of the form {{"image": "<base64>"}}: {reason}') from error
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"the image is not valid base64: {error}") from error
