"""The routes of `/v2` on a real server: both forms of a model's path, problems, limits and overload."""

import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.percept.oip.triton import CLASSIFIER, RED, connect, pixel_input
from tests.photos import draw_marker, encode_photo


def create_request(image: bytes) -> dict[str, Any]:
    """The JSON of a request with one image."""
    data = [base64.b64encode(image).decode()]
    return {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": data}]}


@pytest.mark.parametrize("path", ["", "/config", "/ready", "/infer"])
def test_path_with_a_version_is_the_same_endpoint(client: httpx.Client, path: str) -> None:
    method, body = ("POST", create_request(RED)) if path == "/infer" else ("GET", None)
    newest, first, second = (
        client.request(method, f"/v2/models/{CLASSIFIER}{version}{path}", json=body)
        for version in ("", "/versions/1", "/versions/2")
    )
    assert newest.status_code == 200
    assert newest.json() == first.json()
    assert (second.status_code, second.json()["code"]) == (404, "unknown_model")


def test_openapi_has_a_version_only_where_the_path_has_one(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    ours = {path: operations for path, operations in paths.items() if path.startswith("/v2/models/")}
    assert len(ours) == 8
    for path, operations in ours.items():
        for operation in operations.values():
            names = [(one["name"], one["in"], one["required"]) for one in operation["parameters"]]
            version = [("version", "path", True)] if "{version}" in path else []
            assert names == [("name", "path", True), *version]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nowhere", 404),
        ("GET", f"/v2/models/{CLASSIFIER}/infer", 405),
        ("GET", f"/v2/models/{CLASSIFIER}/versions/new", 422),
        ("POST", f"/v2/models/{CLASSIFIER}/infer", 400),
        ("POST", f"/v2/repository/models/{CLASSIFIER}/load", 403),
        ("POST", f"/v2/repository/models/{CLASSIFIER}/unload", 403),
    ],
)
def test_failure_is_a_problem_with_the_protocol_error(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    problem = response.json()
    assert problem["error"] == problem["detail"] != ""
    assert problem["code"]


def test_json_has_a_lower_limit_than_binary_data(start: Callable[..., Any], bundles: Path) -> None:
    server = start(bundles, PERCEPT_MAX_IMAGE_BYTES="20000")
    batch = np.full((2, 64, 48, 3), 127, np.uint8)
    with connect(server.client) as triton:
        assert triton.infer(CLASSIFIER, pixel_input(batch)).as_numpy("scores").shape == (2, 3)
        with pytest.raises(InferenceServerException, match="send binary tensor data") as raised:
            triton.infer(CLASSIFIER, pixel_input(batch, binary=False))
    assert raised.value.status() == "413"
    for declared in ("many", "-1", "9" * 5000):
        length = {"Inference-Header-Content-Length": declared}
        response = server.client.post(f"/v2/models/{CLASSIFIER}/infer", content=b"{}", headers=length)
        assert response.status_code == 400
        assert "must be a number of bytes" in response.json()["error"]


def test_full_queue_refuses_requests(start: Callable[..., Any], bundles: Path) -> None:
    server = start(bundles, PERCEPT_MAX_QUEUE="1", PERCEPT_THREADS="1")
    large = encode_photo(draw_marker((3000, 2000), (700, 700), 300), "PNG")
    body = json.dumps(create_request(large))
    with ThreadPoolExecutor(8) as pool:
        responses = list(
            pool.map(lambda _: server.client.post(f"/v2/models/{CLASSIFIER}/infer", content=body), range(16))
        )
    codes = {response.status_code for response in responses}
    assert codes == {200, 429}
    assert all(int(response.headers["retry-after"]) >= 1 for response in responses if response.status_code == 429)
