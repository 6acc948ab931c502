"""The short way to the endpoints that take images: past FastAPI's solving of dependencies, which costs more than all
else that HTTP does for a small network's answer.

The endpoint is the same function, its parameters the same model, its failures the same problems. What that model does
not accept goes the long way, where FastAPI says what is wrong.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_origin

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from service import problems
from service.routes.query import State

Endpoint = Callable[[Request, Any, State], Awaitable[Response]]
MAX_QUERY = 512  # bytes of a query that is remembered
REMEMBERED = 256


@dataclass(frozen=True)
class Way:
    """An endpoint that takes a request, its parameters and the application's state; the path stands for its route."""

    path: str
    endpoint: Endpoint
    query: type[BaseModel]


class ShortWay:
    """ASGI middleware: a POST to one of the `ways` goes straight to its endpoint, everything else on to the app."""

    def __init__(self, app: ASGIApp, ways: Mapping[str, Way], state: State) -> None:
        self._app, self._ways, self._state = app, ways, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application answer."""
        way = self._ways.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        query = way and parsed(way, scope["query_string"])
        if way is None or query is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = way
        request = Request(scope, receive, send)
        try:
            response = await way.endpoint(request, query, self._state)
        except problems.EXPECTED as error:
            response = await problems.respond(request, error)
        except Exception as error:
            await (await problems.unexpected(request, error))(scope, receive, send)
            raise
        await response(scope, receive, send)


def parsed(way: Way, query_string: bytes) -> BaseModel | None:
    """The parameters of a request; None where they are not accepted."""
    return _remembered(way, query_string) if len(query_string) <= MAX_QUERY else _parsed(way, query_string)


def _parsed(way: Way, query_string: bytes) -> BaseModel | None:
    given = QueryParams(query_string)
    lists = {name for name, field in way.query.model_fields.items() if get_origin(field.annotation) is list}
    try:
        return way.query.model_validate({name: given.getlist(name) if name in lists else given[name] for name in given})
    except ValidationError:
        return None


_remembered = lru_cache(REMEMBERED)(_parsed)
