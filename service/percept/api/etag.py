"""ETags and conditional requests (RFC 9110, sections 8.8.3 and 13.1.2).

A request and the values that its response depends on come in; the ETag of the response leaves, or a 304 response if
the client already has it.
"""

import re
from collections.abc import Mapping
from hashlib import sha256

from fastapi import Request
from fastapi.responses import Response

from percept import __version__

# An opaque tag in quotes, which may contain commas; `W/` marks a weak one.
ENTITY_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def compute_etag(request: Request, *parts: object) -> str:
    """Compute the strong ETag of a response that depends on the URL, the version of the service and `parts` alone."""
    query = sorted(request.query_params.multi_items())
    content = "\n".join(map(str, (__version__, request.url.path, query, *parts)))
    return f'"{sha256(content.encode()).hexdigest()[:32]}"'


def not_modified(request: Request, headers: Mapping[str, str]) -> Response | None:
    """Return a 304 response if `If-None-Match` matches the ETag in `headers`; None otherwise.

    `headers` are those of the 200 response: `ETag`, `Cache-Control` and `Vary` must be the same in a 304.
    """
    if matches(", ".join(request.headers.getlist("if-none-match")), headers["ETag"]):
        return Response(status_code=304, headers=dict(headers))
    return None


def matches(if_none_match: str, etag: str) -> bool:
    """Whether `If-None-Match`, `*` or a list of ETags, matches an ETag by weak comparison, which ignores `W/`."""
    return if_none_match.strip() == "*" or etag.removeprefix("W/") in ENTITY_TAG.findall(if_none_match)
