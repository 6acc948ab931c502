"""Every event is one line, which says for which request it is, and which nobody who sends a request can forge."""

import asyncio
import json
import logging
import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from percept.runtime.worker_pool import Crew
from percept.server.app import create_app
from percept.settings import Settings
from percept.telemetry.context import begin
from percept.telemetry.logs import FORMATS, answered
from tests.conftest import Server
from tests.photos import encoded, marked

PHOTO = encoded(marked((64, 48), (20, 20), 9), "JPEG")
MODEL = "classification-squeeze"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
FORGED = "x\r\nERROR forged: line\x1b[2J\u2028\u202e\x85"


@pytest.fixture(scope="module")
def talking(start: Callable[..., Server], bundles: Path) -> Server:
    """A server that logs in JSON."""
    return start(bundles, PERCEPT_LOG_FORMAT="json", PERCEPT_LOG_LEVEL="debug")


@pytest.fixture(scope="module")
def plain(start: Callable[..., Server], bundles: Path) -> Server:
    """A server that logs as it does by default."""
    return start(bundles)


@pytest.fixture(params=FORMATS)
def written(request: pytest.FixtureRequest) -> tuple[str, logging.Logger, StringIO]:
    """A format, a logger that writes in it, and where it writes."""
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(FORMATS[request.param]())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    return request.param, logger, stream


def asked(client: httpx.Client, id: str, url: str = f"/predict?model={MODEL}", **more: Any) -> httpx.Response:
    return client.request(**{"method": "POST", "url": url, "content": PHOTO, "headers": {"x-request-id": id}} | more)


def test_every_line_is_an_object_from_the_first_to_the_last(talking: Server) -> None:
    asked(talking.client, "whole")
    talking.logged("whole")
    lines = [json.loads(line) for line in tuple(talking.log)]
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(line) for line in lines))
    for line in lines:
        assert re.fullmatch(TIME, line["time"])
        assert abs((datetime.now(UTC) - datetime.fromisoformat(line["time"])).total_seconds()) < 600
    assert {"uvicorn.error", "percept.runtime.repository"} <= {line["logger"] for line in lines}


def test_a_request_has_one_line_with_all_that_is_known_of_it(talking: Server) -> None:
    answer = asked(talking.client, "one-17", headers={"x-request-id": "one-17", **PARENT})
    assert answer.headers["x-request-id"] == "one-17"
    line = json.loads(talking.logged("one-17"))
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
    assert sum("one-17" in each for each in talking.log) == 1


def test_a_line_for_people_is_short(plain: Server) -> None:
    asked(plain.client, "short-1", headers={"x-request-id": "short-1", **PARENT})
    line = plain.logged("short-1")
    told = rf"percept\.access: POST /predict 200 \d+\.\d ms {MODEL}/1 \[request=short-1 trace={TRACE}\]"
    assert re.fullmatch(rf"{TIME} INFO     {told}\n", line)


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
def test_every_answer_says_which_request_it_is_for(plain: Server, method: str, url: str, content: bytes) -> None:
    own = plain.client.request(method, url, content=content).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{16}", own)
    answer = plain.client.request(method, url, content=content, headers={"x-request-id": "mine"})
    assert answer.headers.get_list("x-request-id") == ["mine"]
    if answer.headers["content-type"] == "application/problem+json":
        assert answer.json()["instance"] == "urn:percept:request:mine"


def test_probes_and_scrapes_are_for_who_looks_for_them(talking: Server, plain: Server) -> None:
    for server in (talking, plain):
        for path in ("/health/live", "/health/ready", "/metrics"):
            server.client.get(path, headers={"x-request-id": f"quiet{path.replace('/', '-')}"})
        asked(server.client, "after-them")
        server.logged("after-them")
    assert {json.loads(line)["level"] for line in talking.log if "quiet-" in line} == {"debug"}
    assert not any("quiet-" in line for line in plain.log)


def test_what_is_asked_besides_the_path_is_not_logged(plain: Server) -> None:
    asked(plain.client, "private", "/predict?model=nobody&top_k=3")
    asked(plain.client, "private", "/predict?patient=Smith")
    plain.logged("POST /predict 422")
    assert not any("Smith" in line or "top_k" in line for line in plain.log)


def test_what_cannot_be_served_yet_is_logged_with_its_request(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start(tmp_path, wait=False, PERCEPT_LOG_FORMAT="json")
    assert asked(server.client, "early-1", "/predict").status_code == 503
    server.logged("/predict 503")
    lines = [json.loads(line) for line in server.log if "early-1" in line]
    assert [(line["logger"], line["level"]) for line in lines] == [
        ("percept.api.problems", "warning"),
        ("percept.access", "info"),
    ]
    assert "models" in lines[0]["message"] or "bundle" in lines[0]["message"]


def test_a_fault_of_ours_is_logged_with_its_request_and_where_it_came_from(bundles: Path, caplog) -> None:
    """The traceback is the server's to log, after the application has failed."""

    async def broken(*_: object) -> None:
        raise RuntimeError(FORGED)

    async def go() -> httpx.Response:
        app = create_app(Settings(models=bundles, device="cpu"))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
        serving = asyncio.create_task(server.serve())
        while not (server.started and app.state.percept.repository.models):
            await asyncio.sleep(0.05)
        app.state.percept.pipeline.predict = broken
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            headers = {"x-request-id": "broken-1"}
            answer = await client.post(f"/predict?model={MODEL}", content=PHOTO, headers=headers)
        server.should_exit = True
        await serving
        return answer

    caplog.handler.setFormatter(FORMATS["text"]())
    with caplog.at_level("INFO"):
        answer = asyncio.run(go())
    assert (answer.status_code, answer.json()["instance"]) == (500, "urn:percept:request:broken-1")
    told = [line for line in caplog.text.splitlines() if "broken-1" in line]
    assert [line.split()[1:3] for line in told] == [["INFO", "percept.access:"], ["ERROR", "uvicorn.error:"]]
    assert "    RuntimeError: x\n    ERROR forged: line\\x1b[2J\n" in caplog.text


def raw(server: Server, request: bytes) -> bytes:
    """The answer to bytes on a socket, so that no client mends them first."""
    with socket.create_connection((server.client.base_url.host, server.client.base_url.port), 20) as connection:
        connection.sendall(request)
        return connection.recv(65536)


@pytest.mark.parametrize("form", ["talking", "plain"])
def test_a_path_forges_no_line(request: pytest.FixtureRequest, form: str) -> None:
    server = request.getfixturevalue(form)
    path = "/" + form + "%0A%0D%1b%5B2J%E2%80%A8%E2%80%AEERROR%20forged%00%ff"
    assert server.client.get(path).status_code == 404
    line = server.logged(f"GET /{form}")
    assert line.rstrip("\n").isprintable()
    assert "ERROR forged" in line
    assert not any(each.lstrip().startswith(("ERROR", "[2J")) for each in server.log)


@pytest.mark.parametrize("id", [b"a b", b"a\tb", b"\x1b[2J", b"x" * 129, b"\xff\xfe", b"a;b=c"])
def test_a_header_forges_nothing(plain: Server, id: bytes) -> None:
    head = b"GET /models HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Request-ID: " + id + b"\r\ntraceparent: " + id
    answer = raw(plain, head + b"\r\n\r\n")
    found = re.search(rb"x-request-id: ([^\r\n]*)", answer)
    if answer.startswith(b"HTTP/1.1 400"):  # the server refuses such a header before anybody sees it
        assert found is None
    else:
        assert found
        assert re.fullmatch(rb"[0-9a-f]{16}", found[1])
        assert plain.logged(found[1].decode()).rstrip("\n").isprintable()


def test_nothing_that_is_logged_ends_a_line(written: tuple[str, logging.Logger, StringIO]) -> None:
    _, logger, stream = written
    logger.info("found %s", FORGED)
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    assert "ERROR forged: line" in line


def test_an_exception_is_told_below_its_line(written: tuple[str, logging.Logger, StringIO]) -> None:
    form, logger, stream = written
    try:
        raise ValueError(FORGED)
    except ValueError:
        logger.exception("it failed")
    first, *below = stream.getvalue().split("\n")[:-1]
    if form == "json":
        assert below == []
        assert f"ValueError: {FORGED}" in json.loads(first)["exc_info"]
    else:
        assert first.endswith("it failed")
        assert any("ValueError: x" in line for line in below)
        assert all(line.startswith("    ") and line.isprintable() for line in below)


def test_what_a_thread_logs_is_of_the_request_that_it_works_for(written: tuple[str, logging.Logger, StringIO]) -> None:
    form, logger, stream = written

    async def request(crew: Crew, id: str) -> None:
        begin(id, TRACE)
        await crew.do(logger.warning, "working")

    async def go() -> None:
        crew = Crew(2, "test")
        await asyncio.gather(*(request(crew, f"id-{k}") for k in range(8)))
        await crew.do(logger.warning, "nobody's")
        crew.close()

    asyncio.run(go())
    *lines, last = stream.getvalue().splitlines()
    if form == "json":
        assert {json.loads(line)["request_id"] for line in lines} == {f"id-{k}" for k in range(8)}
        assert {json.loads(line)["trace_id"] for line in lines} == {TRACE}
        assert "request_id" not in json.loads(last)
    else:
        ids = {f"working [request=id-{k} trace={TRACE}]" for k in range(8)}
        assert {line.split("test: ")[1] for line in lines} == ids
        assert last.endswith("nobody's")


def test_a_line_that_is_not_wanted_is_not_made(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "percept.access"):
        answered(logging.INFO, begin("quiet"), "GET", "/", "/", 200, 0.1)
    assert caplog.records == []
