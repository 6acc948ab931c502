"""Responses in the formats of `percept.api.negotiation`, and the headers of those about a cached image."""

from fastapi.responses import Response
from pydantic import BaseModel

from percept.api.negotiation import MEDIA_TYPES
from percept.settings import Settings


def binary_response(data: bytes, format: str, headers: dict[str, str] | None = None) -> Response:
    """A picture or an array that is encoded already."""
    return Response(data, media_type=MEDIA_TYPES[format], headers=headers)


def json_response(content: BaseModel, exclude_none: bool = True) -> Response:
    """A model as JSON, serialized once: FastAPI would validate and copy a returned model again."""
    return Response(content.model_dump_json(exclude_none=exclude_none), media_type=MEDIA_TYPES["json"])


def cache_headers(etag: str, settings: Settings) -> dict[str, str]:
    """The headers of a response about a cached image: clients may cache it as long as the service caches the image."""
    return {"ETag": etag, "Cache-Control": f"private, max-age={settings.store_s:.0f}", "Vary": "Accept"}
