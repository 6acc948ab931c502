"""HEAD is answered wherever GET is: the same status and headers, and no body."""

import socket

import httpx
import pytest

from tests.conftest import Server
from tests.photos import draw_marker, encode_photo

PHOTO = encode_photo(draw_marker((64, 48), (20, 20), 9))
CHANGING = {"x-request-id", "server-timing", "date"}
PATHS = [
    "/health/live",
    "/health/ready",
    "/models",
    "/models/classification-squeeze",
    "/models?unknown",
    "/v2",
    "/v2/models/classification-squeeze",
    "/openapi.json",
    "/docs",
    "/",
    "/nowhere",
    "/predict",
]


def headers_of(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in CHANGING}


@pytest.mark.parametrize("path", PATHS)
def test_head_has_the_headers_of_get(client: httpx.Client, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code
    assert head.content == b""
    different = {"content-length"} if get.status_code >= 400 else set()  # a problem names its request
    assert {name: headers_of(head)[name] for name in headers_of(get).keys() - different} == {
        name: value for name, value in headers_of(get).items() if name not in different
    }


def test_head_of_a_cached_image_has_the_same_headers(client: httpx.Client) -> None:
    id = client.post("/predict", content=PHOTO).json()["id"]
    for path in (f"/cam/{id}?format=json", f"/features/{id}?layer=colour&format=npy"):
        head, get = client.head(path), client.get(path)
        assert headers_of(head) == headers_of(get)
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) == len(get.content) > 0
        assert client.head(path, headers={"if-none-match": head.headers["etag"]}).status_code == 304


def test_connection_continues_after_head(server: Server) -> None:
    base = server.client.base_url
    with socket.create_connection((base.host, base.port), timeout=10) as connection:
        connection.sendall(b"HEAD /models HTTP/1.1\r\nHost: x\r\n\r\nGET /v2 HTTP/1.0\r\n\r\n")
        with connection.makefile("rb") as stream:
            data = stream.read()
    first, second, body = data.split(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200 OK")
    assert second.startswith(b"HTTP/1.1 200 OK")
    assert b'"name":"percept"' in body


def test_method_not_allowed_names_head(client: httpx.Client) -> None:
    assert client.post("/models").headers["allow"] == "GET, HEAD"
    assert client.head("/predict").headers["allow"] == "POST"


def test_head_is_measured_as_the_endpoint(server: Server) -> None:
    server.client.head("/models/segmentation-pad/filters?view=kernels")
    assert " /models/segmentation-pad/filters 404 " in server.wait_for_log("HEAD /models/segmentation-pad/filters")
    assert 'endpoint="/models/{name}/filters"' in server.client.get("/metrics").text
