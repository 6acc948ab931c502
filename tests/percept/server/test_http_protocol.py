"""A request that offers to upgrade its connection is answered as if it did not."""

import base64
import re
import socket
import time
from collections.abc import Sequence
from typing import BinaryIO

import pytest

from tests.conftest import Server
from tests.photos import draw_marker, encode_photo

PHOTO = encode_photo(draw_marker((320, 240), (100, 100), 40), "JPEG")
OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\nUpgrade: h2c\r\n",
    "websocket": b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    "TLS": b"Upgrade: TLS/1.2\r\nConnection: keep-alive, Upgrade\r\n",
    "several": b"Upgrade: h2c\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
}
H2C = OFFERS["h2c"]
LENGTH = b"Content-Length: %d\r\n" % len(PHOTO)


INFERENCE = b'{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","data":["%s"]}]}' % base64.b64encode(PHOTO)
IMAGE_ID = re.compile(rb'"id":"[^"]*"')


def post(headers: bytes, body: bytes = PHOTO, path: bytes = b"/predict", version: bytes = b"1.1") -> bytes:
    return b"POST %s HTTP/%s\r\nHost: x\r\n%s\r\n%s" % (path, version, headers, body)


def chunked(data: bytes, trailer: bytes = b"") -> bytes:
    half = len(data) // 2
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (data[:half], data[half:]))
    return chunks + b"0\r\n" + trailer + b"\r\n"


def exchange(server: Server, segments: Sequence[bytes], count: int = 1) -> list[bytes]:
    """Send segments over one connection, with pauses, and return the status line and body of `count` responses."""
    base = server.client.base_url
    responses: list[bytes] = []
    with socket.create_connection((base.host, base.port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for segment in segments:
            connection.sendall(segment)
            time.sleep(0.05 if len(segments) > 1 else 0)
        with connection.makefile("rb") as stream:
            while len(responses) < count:
                responses.append(read_response(stream))
    return responses


def read_response(stream: BinaryIO) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        assert line, f"the connection was closed after {head!r}"
        head += line
    length = next((line for line in head.lower().splitlines() if line.startswith(b"content-length:")), b":0")
    return head.splitlines()[0] + b"\n" + stream.read(int(length.split(b":")[1]))


def assert_predicted(response: bytes) -> None:
    assert response.startswith(b"HTTP/1.1 200 OK\n"), response
    assert b'"width":320,"height":240' in response


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_body_with_a_length_is_read(server: Server, offer: bytes) -> None:
    [response] = exchange(server, [post(offer + LENGTH)])
    assert_predicted(response)


def test_chunked_body_is_read(server: Server) -> None:
    body = chunked(PHOTO, b"Connection: Upgrade\r\nUpgrade: h2c\r\n")
    [response] = exchange(server, [post(H2C + b"Transfer-Encoding: chunked\r\n", body)])
    assert_predicted(response)


def test_body_in_later_segments_is_read(server: Server) -> None:
    head = post(H2C + LENGTH, b"")
    for segments in ([head, PHOTO], [head[:70], head[70:] + PHOTO[:9], PHOTO[9:500], PHOTO[500:]]):
        [response] = exchange(server, segments)
        assert_predicted(response)


def test_continue_is_sent_before_the_body(server: Server) -> None:
    interim, response = exchange(server, [post(H2C + LENGTH + b"Expect: 100-continue\r\n", b""), PHOTO], 2)
    assert interim == b"HTTP/1.1 100 Continue\n"
    assert_predicted(response)


@pytest.mark.parametrize("connection", [b"close, Upgrade", b"Upgrade"])
def test_request_with_one_response_is_answered(server: Server, connection: bytes) -> None:
    """HTTP/1.0, and a connection that is closed after the response."""
    for version in (b"1.0", b"1.1"):
        headers = b"Connection: " + connection + b"\r\nUpgrade: h2c\r\n" + LENGTH
        [response] = exchange(server, [post(headers, version=version)])
        assert_predicted(response)


def test_further_requests_of_the_connection_are_answered(server: Server) -> None:
    requests = [post(H2C + LENGTH), post(LENGTH), post(H2C + LENGTH)]
    pipelined = b"".join(requests)
    cut = len(requests[0]) + len(requests[1]) + 50  # within the headers of the third
    for segments in (requests, [pipelined], [pipelined[:cut], pipelined[cut:]]):
        for response in exchange(server, segments, 3):
            assert_predicted(response)


def test_many_offers_in_one_segment_are_answered(server: Server) -> None:
    request = b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + H2C + b"\r\n"
    responses = exchange(server, [request * 1200], 1200)
    assert all(response.startswith(b"HTTP/1.1 200 OK\n") for response in responses)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (b"/cam?format=json", PHOTO),
        (b"/features?layer=colour", PHOTO),
        (b"/v2/models/classification-squeeze/infer", INFERENCE),
        (b"/v2/repository/index", b"{}"),
    ],
)
def test_every_endpoint_gets_the_body(server: Server, path: bytes, body: bytes) -> None:
    length = b"Content-Length: %d\r\n" % len(body)
    plain, offering = exchange(server, [post(length, body, path) + post(H2C + length, body, path)], 2)
    assert plain.startswith(b"HTTP/1.1 200 OK\n")
    assert IMAGE_ID.sub(b"", offering) == IMAGE_ID.sub(b"", plain)


def test_broken_request_after_an_offer_is_refused(server: Server) -> None:
    refused = exchange(server, [post(H2C + LENGTH), b"no request\r\n\r\n"], 2)[1]
    assert refused == b"HTTP/1.1 400 Bad Request\nInvalid HTTP request received."


def test_connect_is_refused(server: Server) -> None:
    [response] = exchange(server, [b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"])
    assert response.split()[1] in (b"400", b"404", b"405")
