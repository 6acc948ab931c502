"""How the service logs: a line for each event on stderr, for people (`text`) or for programs (`json`).

A line that is written for a request carries the request's id and its trace. What clients send, such as a path, cannot
forge a line: nothing unprintable leaves as it is, and only a new event begins at the margin. Queries are not logged.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from percept.settings import Settings
from percept.telemetry.context import Account, current

access = logging.getLogger("percept.access")


def configure(settings: Settings) -> None:
    """Log as the settings say, everything that any library logs too."""
    handler = logging.StreamHandler()
    handler.setFormatter(FORMATS[settings.log_format]())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)


def answered(level: int, account: Account, method: str, path: str, endpoint: str, status: int, seconds: float) -> None:
    """The line of a request that was answered."""
    if not access.isEnabledFor(level):
        return
    model = f" {account.model}/{account.version}" if account.model else ""
    fields = {
        "method": method,
        "path": path,
        "endpoint": endpoint,
        "model": account.model,
        "version": account.version,
        "status": status,
        "duration_ms": round(1e3 * seconds, 3),
    }
    access.log(level, "%s %s %d %.1f ms%s", method, path, status, 1e3 * seconds, model, extra={"fields": fields})


class Text(logging.Formatter):
    """`time level logger: message [request]`, and below it, indented, where an exception came from."""

    def format(self, record: logging.LogRecord) -> str:
        """One event."""
        ids = " ".join(f"{name.removesuffix('_id')}={id}" for name, id in _ids().items())
        first = f"{_time(record)} {record.levelname:<8} {record.name}: {_printable(record.getMessage())}"
        below = "".join(f"\n    {_printable(line)}" for line in self._trouble(record).splitlines())
        return first + (f" [{ids}]" if ids else "") + below

    def _trouble(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


class Json(Text):
    """One JSON object in one line of ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """One event."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_ids(),
            **getattr(record, "fields", {}),
        }
        if trouble := self._trouble(record):
            line["exc_info"] = trouble
        return json.dumps(line, default=str)


FORMATS = {"text": Text, "json": Json}


def _ids() -> dict[str, str]:
    """What the request is that this line is written for, if it is for one."""
    account = current()
    if account is None:
        return {}
    ids = {"request_id": account.id, "trace_id": account.trace_id, "span_id": account.span_id}
    return {name: id for name, id in ids.items() if id}


def _time(record: logging.LogRecord) -> str:
    """When it was, as RFC 3339 writes it, in UTC."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _printable(text: str) -> str:
    """The text with everything escaped that ends a line, moves a cursor or turns the direction of writing."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
