"""The short way to the endpoints that take images: past FastAPI's routing and solving of dependencies, which cost more
than all else that HTTP does for a small network's answer.

The endpoint is the same function, its parameters the same model, its failures the same problems. What that model does
not accept goes the long way, where FastAPI says what is wrong.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_origin

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from percept.api import problems
from percept.api.params import State

Endpoint = Callable[[Request, Any, State], Awaitable[Response]]
Named = tuple[tuple[str, str], ...]
MAX_QUERY = 512  # bytes of parameters that are remembered
REMEMBERED = 256


@dataclass(frozen=True)
class Way:
    """An endpoint that takes a request, its parameters and the application's state; the path stands for its route.

    Parameters may stand in the path, `{name}`, or in the query.
    """

    path: str
    endpoint: Endpoint
    query: type[BaseModel]


class ShortWay:
    """ASGI middleware: a POST to one of the `ways` goes straight to its endpoint, everything else on to the app."""

    def __init__(self, app: ASGIApp, ways: Sequence[Way], state: State) -> None:
        self._app, self._state = app, state
        self._exact = {way.path: way for way in ways if "{" not in way.path}
        self._patterns = [(compile_path(way.path)[0], way) for way in ways if "{" in way.path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application answer."""
        found = self._find(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        query = found and parsed(*found, scope["query_string"])
        if found is None or query is None:
            await self._app(scope, receive, send)
            return
        way = scope["route"] = found[0]
        request = Request(scope, receive, send)
        try:
            response = await way.endpoint(request, query, self._state)
        except problems.EXPECTED as error:
            response = await problems.respond(request, error)
        except Exception as error:
            await (await problems.unexpected(request, error))(scope, receive, send)
            raise
        await response(scope, receive, send)

    def _find(self, path: str) -> tuple[Way, Named] | None:
        """The way of a path, and the parameters in it."""
        if way := self._exact.get(path):
            return way, ()
        for pattern, way in self._patterns:
            if match := pattern.match(path):
                return way, tuple(match.groupdict().items())
        return None


def parsed(way: Way, named: Named, query_string: bytes) -> BaseModel | None:
    """The parameters of a request, with those `named` in its path; None where they are not accepted."""
    brief = len(query_string) + sum(len(value) for _, value in named) <= MAX_QUERY
    return _remembered(way, named, query_string) if brief else _parsed(way, named, query_string)


def _parsed(way: Way, named: Named, query_string: bytes) -> BaseModel | None:
    if named and query_string:  # of which FastAPI has the rules
        return None
    given = QueryParams(query_string)
    lists = {name for name, field in way.query.model_fields.items() if get_origin(field.annotation) is list}
    said = {name: given.getlist(name) if name in lists else given[name] for name in given}
    try:
        return way.query.model_validate(said | dict(named))
    except ValidationError:
        return None


_remembered = lru_cache(REMEMBERED)(_parsed)
