"""Multipart forms (RFC 7578): image parts are the images of a request, and all other parts are its parameters.

A request and the parameters of its query come in; the parameters of query and form together leave, with the images. A
part is an image if it has a file name, if its type is `image/*` or `application/octet-stream`, or if it is named
`image`. Whether its bytes are an image is not known here.
"""

import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from percept.api.body import CONTENT, ENVELOPE_BYTES, MULTIPART, check_coding, too_large
from percept.api.openapi import inline_schema
from percept.api.params import ModelParams
from percept.api.state import AppState
from percept.errors import BadRequest
from percept.settings import Settings
from percept.telemetry.context import stage

MAX_FIELDS = 128  # text fields of one form
MAX_FIELD_BYTES = 4096  # of one text field
IMAGE_PART = b"image"  # the name of a part that is an image without a file name too
IMAGE_TYPES = (b"image/", b"application/octet-stream")
# RFC 5987 notation, which some clients send alone; the parser ignores it.
FILE_NAME = re.compile(rb";\s*filename\*\s*=", re.IGNORECASE)

P = TypeVar("P", bound=ModelParams)


async def read_form(
    request: Request, params: P, service: AppState, max_images: int | None = None
) -> tuple[P, list[bytes]]:
    """The parameters of query and form, and the images of the form; the same parameters and no image without a form.

    A model that the query names must exist and have room in its queue before the form is received. The caller checks
    the returned parameters as if all were in the query. Raises `BadRequest`, `BadParameter`, `ImageTooLarge` or
    `UnsupportedMediaType`, and what `AppState.find_model` and `check_capacity` raise.
    """
    if not request.headers.get("content-type", "").lower().startswith(MULTIPART):
        return params, []
    if params.model is not None:
        service.find_model(params.model, params.version).queue.check_capacity()
    with stage("receive"):
        form = await _receive(request, service.settings, max_images or service.settings.max_images)
        fields = FormData([(name, value) for name, value in form.multi_items() if isinstance(value, str)])
        images = [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
        await form.close()
    return params.merged(fields), images


def form_request_body(params: type[BaseModel]) -> dict[str, Any]:
    """The `requestBody` of an endpoint in OpenAPI: an image in every form, and in a form the parameters too.

    They have no defaults: the page at `/docs` would send them, and contradict the query.
    """
    fields = {name: _without_default(schema) for name, schema in inline_schema(params)["properties"].items()}
    image = {"type": "string", "format": "binary", "description": "the encoded image"}
    form = {"type": "object", "properties": {"image": image, **fields}, "additionalProperties": False}
    return {
        "required": True,
        "description": "The image: as a raw body, as a part of a form, or in base64.",
        "content": {**CONTENT, MULTIPART: {"schema": form}},
    }


def _without_default(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "default"}


class _FormParser(MultiPartParser):
    """Starlette's parser without temporary files: the body is bounded, and the root may be read-only."""

    spool_max_size = 2**40
    complete = False

    def on_headers_finished(self) -> None:
        """Give an image part a file name, because Starlette's parser takes every other part for a text field."""
        part = self._current_part
        disposition = part.content_disposition or b"form-data"
        _, options = parse_options_header(disposition)
        kind = dict(part.item_headers).get(b"content-type", b"").lower()
        is_image = kind.startswith(IMAGE_TYPES) or FILE_NAME.search(disposition) or options.get(b"name") == IMAGE_PART
        if is_image and b"filename" not in options:
            disposition += b'; filename=""'
        if (is_image or b"filename" in options) and b"name" not in options:
            disposition += b'; name="image"'
        part.content_disposition = disposition
        super().on_headers_finished()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Collect the data of a part; raises `MultiPartException` for a text field of more than `MAX_FIELD_BYTES`."""
        part = self._current_part
        if part.file is None and len(part.data) + end - start > MAX_FIELD_BYTES:
            raise MultiPartException(
                f"the field {part.field_name!r} has more than {MAX_FIELD_BYTES} bytes; an image needs a file name, "
                "or the type image/*"
            )
        super().on_part_data(data, start, end)

    def on_end(self) -> None:
        """The closing boundary was received."""
        self.complete = True


async def _receive(request: Request, settings: Settings, max_images: int) -> FormData:
    """Receive and parse a form; raises `BadRequest` or `ImageTooLarge`."""
    check_coding(request)
    stream = _stream(request, settings.max_image_bytes * max_images + ENVELOPE_BYTES)
    parser = _FormParser(request.headers, stream, max_files=max_images, max_fields=MAX_FIELDS)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise BadRequest(f"the multipart body cannot be parsed: {error}") from error
    if not parser.complete:
        raise BadRequest("the multipart body is cut off: its closing boundary is missing")
    return form


async def _stream(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of a body of at most `limit` bytes; raises `ImageTooLarge`."""
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limit:
            raise too_large(limit)
        yield chunk
