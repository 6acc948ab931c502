"""The image of a request body: raw bytes, or JSON with base64. `form.py` reads multipart forms.

A request comes in; the encoded image leaves as bytes. The size is checked while the body is received, so that no
client can fill the memory. This module does not know whether the bytes are an image.
"""

import base64
import binascii
from typing import Annotated

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
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

Base64 = Annotated[str, StringConstraints(min_length=1)]


class ImageBody(BaseModel):
    """A request body in JSON."""

    model_config = ConfigDict(extra="forbid")

    image: Base64 = Field(description="the encoded image in base64, or as a data URL")


CONTENT = {
    "image/*": {"schema": {"type": "string", "format": "binary"}},
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    JSON: {
        "schema": ImageBody.model_json_schema(),
        "example": {
            "image": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
        },
    },
}


async def read_image(request: Request, settings: Settings) -> bytes:
    """Receive the encoded image of a request; the bytes are not checked to be an image.

    Raises `BadRequest`, `UnsupportedMediaType` or `ImageTooLarge`.
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    limit = settings.max_image_bytes
    with stage("receive"):
        if media_type == JSON:
            return _decode_json(await read_body(request, limit * 4 // 3 + ENVELOPE_BYTES, required=True))
        if media_type in RAW or media_type.startswith("image/"):
            return await read_body(request, limit, required=True)
        if media_type == MULTIPART:
            raise BadRequest("the multipart body has no image: an image is a part with a file name")
        raise UnsupportedMediaType(
            f"a body of type {media_type} is not supported; "
            f"send image/*, application/octet-stream, {MULTIPART} or {JSON}"
        )


def check_coding(request: Request) -> None:
    """Raise `UnsupportedMediaType` if the body is compressed."""
    coding = request.headers.get("content-encoding", "")
    if coding.lower() not in ("", "identity"):
        raise UnsupportedMediaType(f"a body with the coding {coding} is not supported; send it uncompressed")


async def read_body(request: Request, limit: int, required: bool = False) -> bytes:
    """Receive a body of at most `limit` bytes; raises `ImageTooLarge`, `ClientDisconnect`, or `BadRequest` if empty.

    A compressed body raises `UnsupportedMediaType`. Nearly every request runs this function, so it reads the ASGI
    messages without a generator.
    """
    if "content-encoding" in request.headers:
        check_coding(request)
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
            raise too_large(limit)
        chunks.append(chunk)
    if required and not total:
        raise BadRequest("the body is empty; send an image")
    return b"".join(chunks)


def too_large(limit: int) -> ImageTooLarge:
    """The error for a body of more than `limit` bytes."""
    return ImageTooLarge(f"the body has more than {limit} bytes, which is the limit")


def _decode_json(body: bytes) -> bytes:
    """The image in a JSON body; raises `BadRequest`."""
    try:
        text = ImageBody.model_validate_json(body).image
    except ValidationError as error:
        reason = format_validation_errors(error)
        raise BadRequest(
            f'the body is not JSON of the form {{"image": "<base64>"}}: {reason}; parameters are in the query'
        ) from error
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"the image is not valid base64: {error}") from error
