"""Images out of a request: a raw body, multipart files, or JSON with base64. Bounded while it is being read."""

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from percept.errors import BadRequest, ImageTooLarge, UnsupportedMediaType, faults
from percept.settings import Settings
from percept.telemetry.context import stage

MULTIPART = "multipart/form-data"
JSON = "application/json"
# curl's --data-binary says that it sends a form unless told otherwise; what it sends is the image.
RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")
# Boundaries, part headers and JSON punctuation around the images themselves.
ENVELOPE_BYTES = 64 * 2**10
ATTENTION_S = 0.25  # how often a slow answer looks whether anybody still waits for it

T = TypeVar("T")

Base64 = Annotated[str, StringConstraints(min_length=1)]


class ImageBody(BaseModel):
    """The JSON form of a request."""

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


async def attended(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which is cancelled when the client goes away; raises `ClientDisconnect` then."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    watch = _Watch(request, task)
    timer = loop.call_later(ATTENTION_S, watch.begin)  # quick work is over before anybody looks
    try:
        return await work
    except asyncio.CancelledError:
        if not watch.gone or task.uncancel():
            raise
        raise ClientDisconnect from None
    finally:
        timer.cancel()
        watch.end()


class _Watch:
    """Cancels a task once the client of its request is `gone`."""

    def __init__(self, request: Request, task: asyncio.Task[Any]) -> None:
        self.gone = False
        self._request, self._task = request, task
        self._looking: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._looking = asyncio.create_task(self._look())

    def end(self) -> None:
        if self._looking:
            self._looking.cancel()

    async def _look(self) -> None:
        while not await self._request.is_disconnected():
            await asyncio.sleep(ATTENTION_S)
        self.gone = True
        self._task.cancel()


class _InMemory(MultiPartParser):
    """Starlette's parser without temporary files: the body is bounded, and the root may be read-only."""

    spool_max_size = 2**40


async def images(request: Request, settings: Settings) -> list[bytes]:
    """The encoded images of a request, in order, at least one; each is still unchecked.

    Raises `BadRequest`, `UnsupportedMediaType` or `ImageTooLarge`.
    """
    with stage("receive"):
        return await _images(request, settings)


async def _images(request: Request, settings: Settings) -> list[bytes]:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    limit = settings.max_image_bytes
    if kind == MULTIPART:
        return await _files(request, settings)
    if kind == JSON:
        return [_unpack(_present(await body(request, limit * 4 // 3 + ENVELOPE_BYTES)))]
    if kind in RAW or kind.startswith("image/"):
        return [_present(await body(request, limit))]
    raise UnsupportedMediaType(
        f"a body of {kind} carries no image; send image/*, application/octet-stream, {MULTIPART} or {JSON}"
    )


async def image(request: Request, settings: Settings) -> bytes:
    """The one encoded image of a request; raises `BadRequest` where there are several."""
    found = await images(request, settings)
    if len(found) > 1:
        raise BadRequest(f"this endpoint takes one image, not {len(found)}")
    return found[0]


async def _stream(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    _check(request, limit)
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limit:
            raise _too_large(limit)
        yield chunk


async def body(request: Request, limit: int) -> bytes:
    """The body in one piece, of at most `limit` bytes; raises `ImageTooLarge`.

    It is as `_stream`, without its generators, for what comes with nearly every request.
    """
    _check(request, limit)
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
    return b"".join(chunks)


def _present(data: bytes) -> bytes:
    if not data:
        raise BadRequest("the body is empty; send an image")
    return data


def _check(request: Request, limit: int) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise ImageTooLarge(f"the body has {int(declared)} bytes; at most {limit} are accepted")


def _too_large(limit: int) -> ImageTooLarge:
    return ImageTooLarge(f"the body has more than the {limit} bytes that are accepted")


async def _files(request: Request, settings: Settings) -> list[bytes]:
    limit = settings.max_image_bytes * settings.max_images + ENVELOPE_BYTES
    stream = _stream(request, limit)
    parser = _InMemory(request.headers, stream, max_files=settings.max_images, max_fields=16)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise BadRequest(f"the multipart body cannot be read: {error}") from error
    files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    if not files:
        raise BadRequest("the multipart body has no file part")
    return [await part.read() for part in files]


def _unpack(data: bytes) -> bytes:
    try:
        text = ImageBody.model_validate_json(data).image
    except ValidationError as error:
        raise BadRequest(f'the body is not JSON like {{"image": "<base64>"}}: {faults(error)}') from error
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"the image is not base64: {error}") from error
