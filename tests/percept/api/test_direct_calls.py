"""Endpoints that run a model are called directly, with the parameters and problems of FastAPI's own handler."""

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import fastapi.routing
import pytest
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import Response
from fastapi.testclient import TestClient
from pydantic import BaseModel

from percept.api import problems
from percept.api.cam_params import CamRequestParams
from percept.api.features_params import FeaturesRequestParams
from percept.api.params import Params
from percept.api.predict_params import PredictParams
from percept.api.routing import DirectRoute
from percept.server.app import create_app
from percept.settings import Settings
from tests.percept.oip.triton import RED
from tests.photos import draw_marker, encode_photo

PHOTO = encode_photo(draw_marker((64, 48), (20, 20), 9))

DIRECT = [
    "/predict?model=classification-squeeze&top_k=2",
    "/features?model=classification-squeeze&layer=colour",
    "/cam?model=classification-squeeze",
    "/v2/models/classification-squeeze/infer",
    "/v2/models/classification-squeeze/versions/1/infer",
]


@pytest.fixture(scope="module")
def in_process(bundles: Path) -> Iterator[TestClient]:
    """A client of the application in this process, with its models loaded."""
    app = create_app(Settings(models=bundles, device="cpu"))
    with TestClient(app) as client:
        for _ in range(200):
            if client.get("/health/ready").status_code == 200:
                break
            time.sleep(0.05)
        yield client


@contextmanager
def count_solved(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Record the calls with which FastAPI's own handler solves the dependencies of an endpoint."""
    solved, solve = [], fastapi.routing.solve_dependencies  # type: ignore[attr-defined]  # it is not public

    async def record(**arguments: Any) -> Any:
        solved.append(arguments["dependant"].call)
        return await solve(**arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fastapi.routing, "solve_dependencies", record)
        yield solved


def override(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Override a dependency that no endpoint has: FastAPI's handler takes all requests."""
    monkeypatch.setitem(client.app.dependency_overrides, override, override)  # type: ignore[attr-defined]


def post(client: TestClient, url: str) -> Any:
    """Send an image in the way that the endpoint expects it."""
    if "/v2/" not in url:
        return client.post(url, content=PHOTO)
    image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(RED).decode()]}
    return client.post(url, json={"inputs": [image]})


@pytest.mark.parametrize("url", DIRECT)
def test_endpoint_that_runs_a_model_is_called_directly(
    in_process: TestClient, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    with count_solved(monkeypatch) as solved:
        response = post(in_process, url)
        assert response.status_code == 200, response.text
        assert solved == []
        assert in_process.get("/models").status_code == 200
        assert len(solved) == 1, "other endpoints have FastAPI's handler"


def test_invalid_parameters_are_left_to_fastapi(in_process: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with count_solved(monkeypatch) as solved:
        assert post(in_process, "/predict?top_k=0").status_code == 422
        assert len(solved) == 1


def test_overridden_dependencies_are_left_to_fastapi(in_process: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with count_solved(monkeypatch) as solved:
        override(in_process, monkeypatch)
        assert post(in_process, DIRECT[0]).status_code == 200
        assert len(solved) == 1


QUERIES = [
    "",
    "model=a",
    "model=a&model=b",
    "model=",
    "version=2",
    "version=x",
    "top_k=7",
    "top_k=0",
    "alpha=0.5",
    "alpha=2",
    "view=overlay&format=png",
    "view=nothing",
    "unknown=1",
    "target=cat",
    "target=cat&target=dog",
    "target=a%26b&against=c",
    "layer=a+b&layer=c",
    "layer=colour&pool=avg",
    "method=gradcam%2B%2B",
    "method=gradcam++",
    "faithfulness=true",
    "faithfulness=perhaps",
    "field=effective",
    "boxes=0.5",
    "boxes=otsu",
    "x=1&y=2",
    "x=nan",
    "region=1,2,3,4",
    "=",
    "&&",
    "model=%ff",
    "model",
    "target=" + "a" * 2048,
]


class Recorder:
    """An application with one endpoint that records its parameters."""

    def __init__(self, params: type[BaseModel], route_class: type[Any]) -> None:
        self.params: list[BaseModel] = []
        router = APIRouter(route_class=route_class)

        async def endpoint(request: Request, params: Any) -> Response:
            self.params.append(params)
            return Response()

        endpoint.__annotations__["params"] = Annotated[params, Query()]
        router.post("/")(endpoint)
        app = FastAPI()
        problems.add_exception_handlers(app)
        app.include_router(router)
        self.client = TestClient(app)


MODELS: list[type[Params]] = [PredictParams, FeaturesRequestParams, CamRequestParams]


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: model.__name__)
def recorders(request: pytest.FixtureRequest) -> tuple[Recorder, Recorder]:
    """The same endpoint with `DirectRoute` and with FastAPI's own route."""
    return Recorder(request.param, DirectRoute), Recorder(request.param, fastapi.routing.APIRoute)


@pytest.mark.parametrize("query", QUERIES)
def test_parameters_and_problems_equal_those_of_fastapi(
    recorders: tuple[Recorder, Recorder], query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    responses = []
    for recorder in recorders:
        recorder.params.clear()
        with count_solved(monkeypatch) as solved:
            responses.append(recorder.client.post(f"/?{query}"))
        by_fastapi = recorder is recorders[1] or responses[0].status_code != 200
        assert len(solved) == by_fastapi
    direct, usual = responses
    assert (direct.status_code, direct.content) == (usual.status_code, usual.content)
    assert direct.headers == usual.headers
    found, expected = (recorder.params for recorder in recorders)
    assert found == expected
    assert len(found) == (usual.status_code == 200)
    for one, other in zip(found, expected, strict=True):
        assert one.model_fields_set == other.model_fields_set


@pytest.mark.parametrize("params", MODELS, ids=lambda model: model.__name__)
def test_parameter_models_are_frozen(params: type[Params]) -> None:
    assert params.model_config["frozen"]
    assert params.model_config["extra"] == "forbid"


@pytest.mark.parametrize("name", ["classification-squeeze", "unknown", "a%2Fb", "%2e%2e", "a b", "%ff", "x" * 2048])
@pytest.mark.parametrize("version", ["", "/versions/1", "/versions/9", "/versions/new"])
def test_path_parameters_equal_those_of_fastapi(
    in_process: TestClient, monkeypatch: pytest.MonkeyPatch, name: str, version: str
) -> None:
    url, named = f"/v2/models/{name}{version}/infer", {"X-Request-ID": "same"}
    direct = in_process.post(url, content=b"{}", headers=named)
    override(in_process, monkeypatch)
    usual = in_process.post(url, content=b"{}", headers=named)
    assert (direct.status_code, direct.json()) == (usual.status_code, usual.json())
    assert direct.status_code in (400, 404, 422)


async def returns_a_model(request: Request) -> Params:
    return Params()


def returns_from_a_thread(request: Request) -> Response:
    return Response("synchronous")


async def sets_a_header(request: Request, response: Response) -> Response:
    return Response(headers={"x-same": str(response.headers is not None)})


@pytest.mark.parametrize("endpoint", [returns_a_model, returns_from_a_thread, sets_a_header])
def test_other_endpoints_get_fastapis_handler(endpoint: Any) -> None:
    router = APIRouter(route_class=DirectRoute)
    router.add_api_route("/", endpoint, response_model=None)
    app = FastAPI()
    app.include_router(router)
    assert TestClient(app).get("/").status_code == 200
