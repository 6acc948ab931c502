"""The short way accepts what FastAPI accepts, as the same parameters, and leaves the rest to it."""

from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Query
from fastapi.testclient import TestClient
from pydantic import BaseModel

from percept.api.routes import cam, features, predict
from percept.api.short import MAX_QUERY, Way, parsed
from percept.oip import routes
from percept.server.app import WAYS

CLASSIFIER = "classification-squeeze"
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
    "target=" + "a" * MAX_QUERY,
]


PLAIN = [way for way in WAYS if "{" not in way.path]
NAMING = [way for way in WAYS if "{" in way.path]


def by_path(way: Way) -> str:
    return way.path


@pytest.mark.parametrize("way", PLAIN, ids=by_path)
@pytest.mark.parametrize("query", QUERIES)
def test_parameters_are_those_that_fastapi_reads(way: Way, query: str) -> None:
    app, seen = FastAPI(), []

    def endpoint(query: Any) -> None:
        seen.append(query)

    endpoint.__annotations__ = {"query": Annotated[way.query, Query()], "return": None}
    app.get("/")(endpoint)
    with TestClient(app) as client:
        status = client.get(f"/?{query}").status_code
    found = parsed(way, (), query.encode())
    if status == 200:
        assert isinstance(found, BaseModel)
        assert found == seen[0]
        assert found.model_fields_set == seen[0].model_fields_set
    else:
        assert (status, found) == (422, None)


@pytest.mark.parametrize("way", PLAIN, ids=by_path)
def test_a_way_leads_to_the_endpoint_that_is_documented(way: Way) -> None:
    routes: list[Any] = [*predict.router.routes, *features.router.routes, *cam.router.routes]
    assert [r.endpoint for r in routes if r.path == way.path and "POST" in r.methods] == [way.endpoint]


def test_parameters_in_a_path_are_read_as_the_documented_endpoint_reads_them() -> None:
    """What it does not accept, or what comes with a query, is left to FastAPI."""
    documented = [r.path for r in routes.router.routes if r.endpoint in (routes.inference, routes.inference_version)]
    assert sorted(documented) == sorted(way.path for way in NAMING)
    with_version = next(way for way in NAMING if "{version}" in way.path)
    assert parsed(with_version, (("name", "a"), ("version", "3")), b"") == routes.Which(name="a", version=3)
    assert parsed(with_version, (("name", "a"), ("version", "new")), b"") is None
    assert parsed(with_version, (("name", "a"), ("version", "3")), b"version=4") is None


@pytest.mark.parametrize("name", [CLASSIFIER, "nobody", "a%2Fb", "%2e%2e", "a b", "%ff", "x" * MAX_QUERY])
@pytest.mark.parametrize("version", ["", "/versions/1", "/versions/9", "/versions/new"])
def test_both_ways_to_an_inference_answer_alike(client: httpx.Client, name: str, version: str) -> None:
    """A query, which means nothing there, leads the long way round."""
    path = f"/v2/models/{name}{version}/infer"
    named = {"X-Request-ID": "both"}
    short, long = (client.post(path + query, content=b"{}", headers=named) for query in ("", "?a=b"))
    assert (short.status_code, short.json()) == (long.status_code, long.json())
    assert short.status_code in (400, 404, 422)
