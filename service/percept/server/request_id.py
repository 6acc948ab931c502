"""Who a request is, by its headers: an id for its log lines, and the trace that it belongs to.

In come the headers as ASGI has them, out go two strings. What a client sends is taken only where it is well-formed, so
that it can stand in a log, a header and a URN as it is; anything else is as if it had not been sent.
"""

import re
import secrets
from collections.abc import Iterable

Headers = Iterable[tuple[bytes, bytes]]

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# version-trace-parent-flags, and what later versions may add (W3C Trace Context, Level 2, sections 3.2 and 4.3).
TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.S)


def identify(headers: Headers) -> tuple[str, str]:
    """The id of a request, its own or a new one; and the id of its trace, empty where it belongs to none."""
    ids, traces = [], []
    for name, value in headers:
        if name == b"x-request-id":
            ids.append(value)
        elif name == b"traceparent":
            traces.append(value)
    return _id(ids), _trace(traces)


def _id(values: list[bytes]) -> str:
    if len(values) == 1 and REQUEST_ID.fullmatch(values[0]):
        return values[0].decode()
    return secrets.token_hex(8)


def _trace(values: list[bytes]) -> str:
    found = TRACEPARENT.fullmatch(values[0]) if len(values) == 1 else None
    if found is None or (found[1] == b"00" and found[3] is not None):
        return ""
    return found[2].decode()
