"""Log output: one line per event on stderr, as text for people or as JSON for programs.

A line written while a request is handled carries the ids of the request and its trace. Clients cannot forge lines with
what they send, such as a path: unprintable characters are escaped, and in text every line of an event except the first
is indented. Query strings are never logged, because they may hold personal data.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from percept.settings import Settings
from percept.telemetry.context import RequestContext, current_request

access_log = logging.getLogger("percept.access")


def configure_logging(settings: Settings) -> None:
    """Install the handler of the root logger, so that the lines of all libraries have the configured format too."""
    handler = logging.StreamHandler()
    handler.setFormatter(FORMATTERS[settings.log_format]())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)


def log_request(
    level: int, request: RequestContext, method: str, path: str, endpoint: str, status: int, seconds: float
) -> None:
    """Write the access log line of an answered request. `endpoint` is the path template of the route."""
    if not access_log.isEnabledFor(level):
        return
    model = f" {request.model}/{request.version}" if request.model else ""
    fields = {
        "method": method,
        "path": path,
        "endpoint": endpoint,
        "model": request.model,
        "version": request.version,
        "status": status,
        "duration_ms": round(1e3 * seconds, 3),
    }
    access_log.log(level, "%s %s %d %.1f ms%s", method, path, status, 1e3 * seconds, model, extra={"fields": fields})


class TextFormatter(logging.Formatter):
    """`time level logger: message [ids]`, with the traceback of an exception indented below."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one event; it ends without a line break."""
        ids = " ".join(f"{name.removesuffix('_id')}={id}" for name, id in _request_ids().items())
        first = f"{_utc(record)} {record.levelname:<8} {record.name}: {_escape(record.getMessage())}"
        below = "".join(f"\n    {_escape(line)}" for line in self._traceback(record).splitlines())
        return first + (f" [{ids}]" if ids else "") + below

    def _traceback(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


class JsonFormatter(TextFormatter):
    """One JSON object per event, in one line of ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one event; it ends without a line break."""
        line: dict[str, Any] = {
            "time": _utc(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_request_ids(),
            **getattr(record, "fields", {}),
        }
        if traceback := self._traceback(record):
            line["exc_info"] = traceback
        return json.dumps(line, default=str)


FORMATTERS = {"text": TextFormatter, "json": JsonFormatter}


def _request_ids() -> dict[str, str]:
    """The ids of the current request, without empty ones."""
    request = current_request()
    if request is None:
        return {}
    ids = {"request_id": request.id, "trace_id": request.trace_id, "span_id": request.span_id}
    return {name: id for name, id in ids.items() if id}


def _utc(record: logging.LogRecord) -> str:
    """The time of an event in UTC, as RFC 3339 with milliseconds."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _escape(text: str) -> str:
    """Escape the characters that end a line, move the cursor or change the direction of writing."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
