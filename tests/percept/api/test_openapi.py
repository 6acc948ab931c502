"""Parts of the OpenAPI document."""

import json

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
