"""The short way accepts what FastAPI accepts, as the same parameters, and leaves the rest to it."""

from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Query
from fastapi.testclient import TestClient
from pydantic import BaseModel

from service.app import WAYS
from service.routes import cam, features, predict
from service.routes.short import MAX_QUERY, parsed

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


@pytest.mark.parametrize("path", WAYS)
@pytest.mark.parametrize("query", QUERIES)
def test_parameters_are_those_that_fastapi_reads(path: str, query: str) -> None:
    way = WAYS[path]
    app, seen = FastAPI(), []

    def endpoint(query: Any) -> None:
        seen.append(query)

    endpoint.__annotations__ = {"query": Annotated[way.query, Query()], "return": None}
    app.get("/")(endpoint)
    with TestClient(app) as client:
        status = client.get(f"/?{query}").status_code
    found = parsed(way, query.encode())
    if status == 200:
        assert isinstance(found, BaseModel)
        assert found == seen[0]
        assert found.model_fields_set == seen[0].model_fields_set
    else:
        assert (status, found) == (422, None)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_way_leads_to_the_endpoint_that_is_documented(way: Any) -> None:
    routes: list[Any] = [*predict.router.routes, *features.router.routes, *cam.router.routes]
    assert [r.endpoint for r in routes if r.path == way.path and "POST" in r.methods] == [way.endpoint]
