"""A direct call of an endpoint never bypasses a dependency or a middleware of the application around it."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from fastapi.testclient import TestClient

from percept.api.routing import DirectRoute
from percept.api.state import get_state
from percept.server.app import ROUTES, create_app
from percept.settings import Settings

PARAMETERS = {"name": "classification-squeeze", "version": "1", "id": "abc", "file": "x.png"}
REFUSED = 402


def refuse() -> None:
    raise HTTPException(REFUSED)


async def refuse_request(request: Request) -> None:
    raise HTTPException(REFUSED)


def refuse_in_generator() -> Iterator[None]:
    raise HTTPException(REFUSED)
    yield


async def refuse_in_async_generator(request: Request) -> AsyncIterator[None]:
    raise HTTPException(REFUSED)
    yield


REFUSALS = [refuse, refuse_request, refuse_in_generator, refuse_in_async_generator]


def documented_operations() -> list[tuple[str, str]]:
    """The method and path of every operation of the OpenAPI document."""
    paths = create_app(Settings()).openapi()["paths"]
    return [(method.upper(), path) for path, operations in paths.items() for method in operations]


def send_to_all(app: FastAPI) -> dict[str, int]:
    """Send a request without a body to every operation; the status by operation."""
    client = TestClient(app, raise_server_exceptions=False)  # without its lifespan: no model is loaded
    statuses = {}
    for method, path in OPERATIONS:
        url = re.sub(r"{(\w+)}", lambda found: PARAMETERS[found[1]], path)
        statuses[f"{method} {path}"] = client.request(method, url).status_code
    return statuses


OPERATIONS = documented_operations()


def test_openapi_document_has_the_endpoints_that_run_a_model() -> None:
    assert len(OPERATIONS) > 20
    assert {("POST", "/predict"), ("POST", "/features"), ("POST", "/cam"), ("GET", "/cam/{id}")} <= set(OPERATIONS)


@pytest.mark.parametrize("dependency", REFUSALS, ids=lambda one: one.__name__)
def test_dependency_of_an_outer_application_is_called(dependency: Callable[..., Any]) -> None:
    app = FastAPI(dependencies=[Depends(dependency)])
    for module in ROUTES:
        app.include_router(module.router)
    assert set(send_to_all(app).values()) == {REFUSED}


@pytest.mark.parametrize("dependency", REFUSALS, ids=lambda one: one.__name__)
def test_dependency_of_an_included_router_is_called(dependency: Callable[..., Any]) -> None:
    app = FastAPI()
    for module in ROUTES:
        app.include_router(module.router, dependencies=[Depends(dependency)])
    assert set(send_to_all(app).values()) == {REFUSED}


@pytest.mark.parametrize("dependency", REFUSALS, ids=lambda one: one.__name__)
def test_dependency_of_an_outer_router_is_called(dependency: Callable[..., Any]) -> None:
    """The routers are included in a router that is included in the application."""
    outer, app = APIRouter(dependencies=[Depends(dependency)]), FastAPI()
    for module in ROUTES:
        outer.include_router(module.router)
    app.include_router(outer)
    assert set(send_to_all(app).values()) == {REFUSED}


def test_middleware_that_is_added_later_sees_every_request() -> None:
    app, seen = create_app(Settings()), []

    @app.middleware("http")
    async def refuse_everything(request: Request, call_next: Callable[..., Any]) -> Response:
        seen.append(request.url.path)
        return JSONResponse({}, REFUSED)

    assert set(send_to_all(app).values()) == {REFUSED}
    assert len(seen) == len(OPERATIONS)


def test_overridden_dependency_replaces_the_original() -> None:
    """Every operation that uses the state of the service, directly or through another dependency."""
    app = create_app(Settings())
    before = send_to_all(app)
    app.dependency_overrides[get_state] = refuse_request
    after = send_to_all(app)
    without_state = {"GET /v2", "GET /v2/health/live"}
    assert {operation for operation, status in after.items() if status != REFUSED} == without_state
    assert REFUSED not in before.values()


def test_dependency_that_permits_is_called_once() -> None:
    called = []

    async def permit(request: Request) -> None:
        called.append(request.url.path)

    async def endpoint(request: Request) -> Response:
        return Response()

    app, router = FastAPI(dependencies=[Depends(permit)]), APIRouter(route_class=DirectRoute)
    router.post("/")(endpoint)
    app.include_router(router)
    assert TestClient(app).post("/").status_code == 200
    assert called == ["/"]
