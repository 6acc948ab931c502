"""Wrong parameters are answered before the client has sent one byte of the body."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.photos import draw_marker, encode_photo

CLASSIFIER, SEGMENTER = "model=classification-squeeze", "model=segmentation-squeeze"
PHOTO = encode_photo(draw_marker((64, 48), (20, 20), 9))

REFUSED = [
    (f"/cam?{SEGMENTER}&x=5", 422, "bad_parameter"),
    (f"/cam?{CLASSIFIER}&x=5&y=5", 422, "bad_parameter"),
    (f"/cam?{CLASSIFIER}&layer=body", 404, "unknown_layer"),
    (f"/cam?{CLASSIFIER}&target=purple", 404, "unknown_class"),
    (f"/cam?{CLASSIFIER}&against=purple", 404, "unknown_class"),
    (f"/cam?{CLASSIFIER}&method=magic", 422, "bad_parameter"),
    (f"/cam?{SEGMENTER}&method=cam", 422, "method_unavailable"),
    ("/cam?model=no-gradients", 422, "gradients_unavailable"),
    (f"/cam?{CLASSIFIER}&unknown=1", 422, "bad_parameter"),
    (f"/cam?{CLASSIFIER}&format=npy&legend=true", 422, "bad_parameter"),
    (f"/cam?{CLASSIFIER}&view=sheet", 422, "bad_parameter"),
    ("/cam?model=missing", 404, "unknown_model"),
    ("/cam?model=classification-squeeze&version=9", 404, "unknown_model"),
    (f"/features?{CLASSIFIER}&layer=body", 404, "unknown_layer"),
    (f"/features?{CLASSIFIER}&layer=colour&view=field&x=5", 422, "bad_parameter"),
    (f"/features?{CLASSIFIER}&layer=colour&view=channel&channel=3", 422, "bad_parameter"),
    (f"/features?{CLASSIFIER}&layer=colour&view=effective&x=5&y=5", 422, "gradients_unavailable"),
    (f"/features?{CLASSIFIER}&view=grid", 422, "bad_parameter"),
    (f"/features?{CLASSIFIER}&layer=colour&unknown=1", 422, "bad_parameter"),
    ("/features?model=missing&layer=colour", 404, "unknown_model"),
    (f"/predict?{CLASSIFIER}&view=mask", 422, "bad_parameter"),
    (f"/predict?{CLASSIFIER}&top_k=0", 422, "bad_parameter"),
    (f"/predict?{SEGMENTER}&top_k=3", 422, "bad_parameter"),
    (f"/predict?{CLASSIFIER}&unknown=1", 422, "bad_parameter"),
    ("/predict?model=missing", 404, "unknown_model"),
    ("/v2/models/missing/infer", 404, "unknown_model"),
    ("/v2/models/classification-squeeze/versions/new/infer", 422, "bad_parameter"),
]
ACCEPTED = [
    f"/cam?{CLASSIFIER}",
    f"/features?{CLASSIFIER}&layer=colour",
    f"/predict?{CLASSIFIER}",
    "/v2/models/classification-squeeze/infer",
]


@contextmanager
def send_headers(
    client: httpx.Client, path: str, length: int, accept: str = "*/*", media_type: str = "image/jpeg"
) -> Iterator[socket.socket]:
    """Send the headers of a request with a body of `length` bytes, and nothing of the body."""
    host, port = client.base_url.host, client.base_url.port
    assert port
    with socket.create_connection((host, port), timeout=5) as connection:
        lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {length}", f"Accept: {accept}"]
        lines += [f"Content-Type: {media_type}"]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        yield connection


def receive(connection: socket.socket) -> tuple[int, Any]:
    """The status and the JSON of a response."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(2**16)
        assert chunk, data
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
    while len(body) < int(headers["content-length"]):
        body += connection.recv(2**16)
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(("path", "status", "code"), REFUSED)
def test_wrong_parameter_is_refused_before_the_body(client: httpx.Client, path: str, status: int, code: str) -> None:
    with send_headers(client, path, 1_000_000) as connection:
        found, problem = receive(connection)
    assert (found, problem["code"]) == (status, code)


def test_unacceptable_format_is_refused_before_the_body(client: httpx.Client) -> None:
    for path in (f"/cam?{CLASSIFIER}", f"/features?{CLASSIFIER}&layer=colour", f"/predict?{CLASSIFIER}"):
        with send_headers(client, path, 1_000_000, "text/html") as connection:
            found, problem = receive(connection)
        assert (found, problem["code"]) == (406, "not_acceptable")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/predict?modell=x", 422, "bad_parameter"),
        ("/predict?top_k=0", 422, "bad_parameter"),
        ("/cam?model=missing", 404, "unknown_model"),
        ("/features?model=classification-squeeze&version=9", 404, "unknown_model"),
    ],
)
def test_wrong_query_is_refused_before_the_form(client: httpx.Client, path: str, status: int, code: str) -> None:
    """As far as no field of the form can make it right."""
    with send_headers(client, path, 1_000_000, media_type="multipart/form-data; boundary=x") as connection:
        found, problem = receive(connection)
    assert (found, problem["code"]) == (status, code)


@pytest.mark.parametrize("path", ACCEPTED)
def test_accepted_parameters_wait_for_the_body(client: httpx.Client, path: str) -> None:
    with send_headers(client, path, 4) as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(5)
        connection.sendall(b"none")
        assert receive(connection)[0] in (400, 415)
