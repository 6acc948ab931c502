"""The route class of the endpoints that run a model.

FastAPI's own handler takes 0.8 ms of CPU for the query model of `/predict` and 1.8 ms for that of `/cam` (version
0.165), more than the rest of HTTP together. `DirectRoute` does the same in a tenth of the time for endpoints that take
only the request, a query model and simple dependencies: it parses the query with the same pydantic model.

It never bypasses anything: a route, router or application with other dependencies, or with overridden ones, gets
FastAPI's handler, and so does a request whose parameters are invalid, because FastAPI words those errors. Middleware
and exception handlers are outside of both.
"""

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams

from percept.api.params import repeatable_parameters

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Dependency = Callable[..., Awaitable[Any]]
Function = TypeVar("Function", bound=Callable[..., Any])


def documentation_only(function: Function) -> Function:
    """Mark a dependency that declares parameters for OpenAPI and does nothing, so that it need not be called."""
    function.documentation_only = True  # type: ignore[attr-defined]
    return function


class DirectRoute(APIRoute):
    """A route that calls its endpoint directly if it depends only on its query model and on the request itself."""

    def get_route_handler(self) -> Handler:
        """The handler of FastAPI, and before it the direct one if the route allows it."""
        full = super().get_route_handler()
        closure = inspect.getclosurevars(full).nonlocals
        # What FastAPI's handler solves: the dependencies of the route and of all routers that include it. If it cannot
        # be found, a change inside FastAPI costs speed, and never skips a dependency.
        dependant, provider = closure.get("dependant"), closure.get("dependency_overrides_provider")
        call = DirectCall.of(dependant) if isinstance(dependant, Dependant) else None
        if call is None:
            return full

        async def handle(request: Request) -> Response:
            if provider and provider.dependency_overrides:
                return await full(request)
            try:
                arguments = call.parse(request)
            except ValidationError:
                return await full(request)
            for name, dependency in call.dependencies.items():
                arguments[name] = await dependency(request)
            response: Response = await call.endpoint(**arguments)
            return response

        return handle


@dataclass(frozen=True)
class DirectCall:
    """An endpoint and its arguments: the request, a query model, and dependencies that take only the request."""

    endpoint: Callable[..., Any]
    request_name: str
    query: Mapping[str, type[BaseModel]]
    lists: frozenset[str]
    dependencies: Mapping[str, Dependency]

    @classmethod
    def of(cls, dependant: Dependant) -> "DirectCall | None":
        """The direct call of an endpoint; None if it has other arguments, or leaves its response to FastAPI."""
        query, dependencies = _query_model(dependant), _request_dependencies(dependant)
        endpoint, request_name = dependant.call, dependant.request_param_name
        if query is None or dependencies is None or endpoint is None or request_name is None:
            return None
        signature = inspect.signature(endpoint)
        if set(signature.parameters) != {request_name, *query, *dependencies}:
            return None
        if not inspect.iscoroutinefunction(endpoint) or signature.return_annotation is not Response:
            return None
        lists = frozenset().union(*map(repeatable_parameters, query.values()))
        return cls(endpoint, request_name, query, lists, dependencies)

    def parse(self, request: Request) -> dict[str, Any]:
        """The request and the query model by the names of the parameters; raises `ValidationError`."""
        given = QueryParams(request.scope["query_string"])
        values = {name: given.getlist(name) if name in self.lists else given[name] for name in given}
        arguments: dict[str, Any] = {name: model.model_validate(values) for name, model in self.query.items()}
        return {self.request_name: request, **arguments}


def _query_model(dependant: Dependant) -> Mapping[str, type[BaseModel]] | None:
    """The query model of an endpoint by its parameter's name; None if it has other parameters."""
    if dependant.path_params or dependant.header_params or dependant.cookie_params or dependant.body_params:
        return None
    models = {field.name: field.field_info.annotation for field in dependant.query_params}
    if not all(inspect.isclass(model) and issubclass(model, BaseModel) for model in models.values()):
        return None
    return models  # type: ignore[return-value]


def _request_dependencies(dependant: Dependant) -> Mapping[str, Dependency] | None:
    """The dependencies of an endpoint by parameter name; None if one needs more than the request."""
    found: dict[str, Dependency] = {}
    for dependency in dependant.dependencies:
        function = dependency.call
        if getattr(function, "documentation_only", False):
            continue
        parameters = [*inspect.signature(function).parameters.values()] if function else []
        plain = inspect.iscoroutinefunction(function) and [p.annotation for p in parameters] == [Request]
        if not plain or dependency.name is None or dependency.dependencies:
            return None
        found[dependency.name] = function  # type: ignore[assignment]
    return found
