"""The OpenAPI document, its parts, and the page that shows it."""

import json
import re

import httpx

from percept import errors
from percept.api.openapi import inline_schema, problem_responses
from percept.oip.codec import InferRequest


def test_problems_of_one_status_share_a_response() -> None:
    responses = problem_responses(errors.UnknownLayer, errors.BadParameter, errors.UnknownModel)
    assert {status: one["description"] for status, one in responses.items()} == {
        404: "`unknown_layer`, `unknown_model`",
        422: "`bad_parameter`",
    }
    assert all("application/problem+json" in one["content"] for one in responses.values())


def test_inline_schema_has_no_references() -> None:
    schema = inline_schema(InferRequest)
    assert "$ref" not in json.dumps(schema)
    assert schema["properties"]["inputs"]["items"]["properties"]["datatype"]["type"] == "string"


def test_document_has_no_dangling_references(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()

    def references(value: object) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    # FastAPI moves the definitions that routes share into the components; the others stand in the schema itself.
    found = references(document)
    assert found
    assert found <= {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}


def test_openapi_describes_every_endpoint_with_examples(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    for path in ("/predict", "/features", "/cam"):
        post = document["paths"][path]["post"]
        assert {"200", "404", "413", "415", "422", "429", "503"} <= set(post["responses"])
        assert post["requestBody"]["content"]["application/json"]["example"]
        assert all("description" in one or one["schema"].get("default") for one in post["parameters"])


def test_documentation_page_loads_no_external_files(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(sources) >= 3
    for source in sources:
        assert source.startswith("/"), source
        assert client.get(source).status_code == 200
