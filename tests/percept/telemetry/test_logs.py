"""Every event is one line that carries the ids of its request, and clients cannot forge lines."""

import asyncio
import json
import logging
import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import httpx
import pytest
import uvicorn

from percept.runtime.worker_pool import WorkerPool
from percept.server.app import create_app
from percept.settings import Settings
from percept.telemetry.context import begin_request
from percept.telemetry.logs import FORMATTERS, log_request
from tests.conftest import Server
from tests.photos import draw_marker, encode_photo

PHOTO = encode_photo(draw_marker((64, 48), (20, 20), 9), "JPEG")
MODEL = "classification-squeeze"
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
FORGED = "x\r\nERROR forged: line\x1b[2J\u2028\u202e\x85"

Output = tuple[str, logging.Logger, StringIO]


@pytest.fixture(scope="module")
def json_server(start: Callable[..., Server], bundles: Path) -> Server:
    """A server that logs everything as JSON."""
    return start(bundles, PERCEPT_LOG_FORMAT="json", PERCEPT_LOG_LEVEL="debug")


@pytest.fixture(scope="module")
def text_server(start: Callable[..., Server], bundles: Path) -> Server:
    """A server with the default log settings."""
    return start(bundles)


@pytest.fixture(params=FORMATTERS)
def output(request: pytest.FixtureRequest) -> Output:
    """A log format, a logger that writes in it, and the stream that it writes to."""
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(FORMATTERS[request.param]())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    return request.param, logger, stream


def send(client: httpx.Client, id: str, url: str = f"/predict?model={MODEL}", **headers: str) -> httpx.Response:
    return client.post(url, content=PHOTO, headers={"x-request-id": id, **headers})


def test_json_log_has_one_object_per_line(json_server: Server) -> None:
    send(json_server.client, "whole")
    json_server.wait_for_log("whole")
    lines = [json.loads(line) for line in tuple(json_server.log)]
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(line) for line in lines))
    for line in lines:
        assert re.fullmatch(TIME, line["time"])
        assert abs((datetime.now(UTC) - datetime.fromisoformat(line["time"])).total_seconds()) < 600
    assert {"uvicorn.error", "percept.runtime.repository"} <= {line["logger"] for line in lines}


def test_access_log_has_every_field_once(json_server: Server) -> None:
    response = send(json_server.client, "one-17", **TRACEPARENT)
    assert response.headers["x-request-id"] == "one-17"
    line = json.loads(json_server.wait_for_log("one-17"))
    assert line.pop("duration_ms") > 0
    assert re.fullmatch(rf"POST /predict 200 \d+\.\d ms {MODEL}/1", line.pop("message"))
    del line["time"]
    assert line == {
        "level": "info",
        "logger": "percept.access",
        "request_id": "one-17",
        "trace_id": TRACE,
        "method": "POST",
        "path": "/predict",
        "endpoint": "/predict",
        "model": MODEL,
        "version": "1",
        "status": 200,
    }
    assert sum("one-17" in each for each in json_server.log) == 1


def test_text_access_log_is_short(text_server: Server) -> None:
    send(text_server.client, "short-1", **TRACEPARENT)
    line = text_server.wait_for_log("short-1")
    message = rf"percept\.access: POST /predict 200 \d+\.\d ms {MODEL}/1 \[request=short-1 trace={TRACE}\]"
    assert re.fullmatch(rf"{TIME} INFO     {message}\n", line)


@pytest.mark.parametrize(
    ("method", "url", "content"),
    [
        ("GET", "/health/live", b""),
        ("GET", "/models", b""),
        ("GET", "/metrics", b""),
        ("GET", "/nothing", b""),
        ("GET", "/predict", b""),
        ("GET", "/docs", b""),
        ("POST", "/predict?colour=red", PHOTO),
        ("POST", "/predict?model=nobody", PHOTO),
        ("POST", "/predict", b""),
        ("POST", "/cam", PHOTO),
    ],
)
def test_every_response_has_its_request_id(text_server: Server, method: str, url: str, content: bytes) -> None:
    generated = text_server.client.request(method, url, content=content).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{16}", generated)
    response = text_server.client.request(method, url, content=content, headers={"x-request-id": "mine"})
    assert response.headers.get_list("x-request-id") == ["mine"]
    if response.headers["content-type"] == "application/problem+json":
        assert response.json()["instance"] == "urn:percept:request:mine"


def test_probes_are_logged_at_debug_level_only(json_server: Server, text_server: Server) -> None:
    for server in (json_server, text_server):
        for path in ("/health/live", "/health/ready", "/metrics"):
            server.client.get(path, headers={"x-request-id": f"probe{path.replace('/', '-')}"})
        send(server.client, "after-the-probes")
        server.wait_for_log("after-the-probes")
    assert {json.loads(line)["level"] for line in json_server.log if "probe-" in line} == {"debug"}
    assert not any("probe-" in line for line in text_server.log)


def test_query_strings_are_not_logged(text_server: Server) -> None:
    send(text_server.client, "private", "/predict?model=nobody&top_k=3")
    send(text_server.client, "private", "/predict?patient=Smith")
    text_server.wait_for_log("POST /predict 422")
    assert not any("Smith" in line or "top_k" in line for line in text_server.log)


def test_request_without_models_is_logged_with_its_id(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start(tmp_path, wait=False, PERCEPT_LOG_FORMAT="json")
    assert send(server.client, "early-1", "/predict").status_code == 503
    server.wait_for_log("/predict 503")
    lines = [json.loads(line) for line in server.log if "early-1" in line]
    assert [(line["logger"], line["level"]) for line in lines] == [
        ("percept.api.problems", "warning"),
        ("percept.access", "info"),
    ]
    assert "models" in lines[0]["message"] or "bundle" in lines[0]["message"]


def test_internal_error_is_logged_with_its_traceback(bundles: Path, caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn logs the traceback after the application has failed, still with the id of the request."""

    async def fail(*_: object) -> None:
        raise RuntimeError(FORGED)

    async def serve_one_request() -> httpx.Response:
        app = create_app(Settings(models=bundles, device="cpu"))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
        serving = asyncio.create_task(server.serve())
        while not (server.started and app.state.percept.repository.models):
            await asyncio.sleep(0.05)
        app.state.percept.pipeline.predict = fail
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            headers = {"x-request-id": "broken-1"}
            response = await client.post(f"/predict?model={MODEL}", content=PHOTO, headers=headers)
        server.should_exit = True
        await serving
        return response

    caplog.handler.setFormatter(FORMATTERS["text"]())
    with caplog.at_level("INFO"):
        response = asyncio.run(serve_one_request())
    assert (response.status_code, response.json()["instance"]) == (500, "urn:percept:request:broken-1")
    lines = [line for line in caplog.text.splitlines() if "broken-1" in line]
    assert [line.split()[1:3] for line in lines] == [["INFO", "percept.access:"], ["ERROR", "uvicorn.error:"]]
    assert "    RuntimeError: x\n    ERROR forged: line\\x1b[2J\n" in caplog.text


def send_raw(server: Server, request: bytes) -> bytes:
    """Send bytes on a socket, which no HTTP client has corrected, and return the response."""
    with socket.create_connection((server.client.base_url.host, server.client.base_url.port), 20) as connection:
        connection.sendall(request)
        return connection.recv(65536)


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_path_cannot_forge_a_line(request: pytest.FixtureRequest, log_format: str) -> None:
    server: Server = request.getfixturevalue(f"{log_format}_server")
    path = "/" + log_format + "%0A%0D%1b%5B2J%E2%80%A8%E2%80%AEERROR%20forged%00%ff"
    assert server.client.get(path).status_code == 404
    line = server.wait_for_log(f"GET /{log_format}")
    assert line.rstrip("\n").isprintable()
    assert "ERROR forged" in line
    assert not any(each.lstrip().startswith(("ERROR", "[2J")) for each in server.log)


@pytest.mark.parametrize("id", [b"a b", b"a\tb", b"\x1b[2J", b"x" * 129, b"\xff\xfe", b"a;b=c"])
def test_header_cannot_forge_a_line(text_server: Server, id: bytes) -> None:
    head = b"GET /models HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Request-ID: " + id + b"\r\ntraceparent: " + id
    response = send_raw(text_server, head + b"\r\n\r\n")
    found = re.search(rb"x-request-id: ([^\r\n]*)", response)
    if response.startswith(b"HTTP/1.1 400"):  # uvicorn refuses such a header before the application runs
        assert found is None
    else:
        assert found
        assert re.fullmatch(rb"[0-9a-f]{16}", found[1])
        assert text_server.wait_for_log(found[1].decode()).rstrip("\n").isprintable()


def test_message_cannot_end_its_line(output: Output) -> None:
    _, logger, stream = output
    logger.info("found %s", FORGED)
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    assert "ERROR forged: line" in line


def test_traceback_is_logged_below_its_line(output: Output) -> None:
    log_format, logger, stream = output
    try:
        raise ValueError(FORGED)
    except ValueError:
        logger.exception("it failed")
    first, *below = stream.getvalue().split("\n")[:-1]
    if log_format == "json":
        assert below == []
        assert f"ValueError: {FORGED}" in json.loads(first)["exc_info"]
    else:
        assert first.endswith("it failed")
        assert any("ValueError: x" in line for line in below)
        assert all(line.startswith("    ") and line.isprintable() for line in below)


def test_worker_threads_log_the_id_of_their_request(output: Output) -> None:
    log_format, logger, stream = output

    async def handle_request(pool: WorkerPool, id: str) -> None:
        begin_request(id, TRACE)
        await pool.run(logger.warning, "working")

    async def run() -> None:
        pool = WorkerPool(2, "test")
        await asyncio.gather(*(handle_request(pool, f"id-{k}") for k in range(8)))
        await pool.run(logger.warning, "outside a request")
        pool.close()

    asyncio.run(run())
    *lines, last = stream.getvalue().splitlines()
    if log_format == "json":
        assert {json.loads(line)["request_id"] for line in lines} == {f"id-{k}" for k in range(8)}
        assert {json.loads(line)["trace_id"] for line in lines} == {TRACE}
        assert "request_id" not in json.loads(last)
    else:
        ids = {f"working [request=id-{k} trace={TRACE}]" for k in range(8)}
        assert {line.split("test: ")[1] for line in lines} == ids
        assert last.endswith("outside a request")


def test_disabled_level_writes_no_access_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "percept.access"):
        log_request(logging.INFO, begin_request("quiet"), "GET", "/", "/", 200, 0.1)
    assert caplog.records == []
