"""The shutdown drops no request, waits no longer than the deadline, and ends with status 0."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.bundles import create_bundle
from tests.conftest import ROOT, Server
from tests.deploy.load import run_load
from tests.photos import draw_marker, encode_photo

PHOTO = encode_photo(draw_marker((320, 240), (100, 100), 40), "JPEG")
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(PHOTO)


@pytest.fixture
def own_server(start: Callable[..., Server], tmp_path: Path) -> Server:
    """A server that the test may stop."""
    return start(create_bundle(tmp_path).parent.parent)


def connect(server: Server) -> socket.socket:
    base = server.client.base_url
    return socket.create_connection((base.host, base.port), timeout=60)


def signal_and_wait(server: Server, signal_: int = signal.SIGTERM) -> None:
    """Send a signal and return once the server refuses new connections."""
    server.process.send_signal(signal_)
    for _ in range(1000):
        try:
            connect(server).close()
        except ConnectionError:
            return
        time.sleep(0.02)
    raise AssertionError("connections are still accepted")


def read_response(connection: socket.socket) -> bytes:
    """Return everything that the server sends until it closes the connection."""
    with connection.makefile("rb") as stream:
        return stream.read()


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_are_completed(own_server: Server, signal_: int) -> None:
    """New connections are refused meanwhile, and the exit status is 0."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(own_server)) for _ in range(4)]
        for client in clients:
            client.sendall(HEAD + PHOTO[:100])
        signal_and_wait(own_server, signal_)
        for client in clients:
            client.sendall(PHOTO[100:])
        responses = [read_response(client) for client in clients]
    assert all(response.startswith(b"HTTP/1.1 200") for response in responses)
    assert all(b"connection: close" in response for response in responses)
    assert own_server.process.wait(20) == 0


@pytest.mark.parametrize("keep_alive", [False, True])
def test_busy_clients_lose_no_request(own_server: Server, keep_alive: bool) -> None:
    """Every request is answered or its connection refused.

    When the signal comes, some clients are sending over a kept connection, or over one that is not accepted yet.
    """
    with run_load(str(own_server.client.base_url), [("/predict", PHOTO)], 24, keep_alive) as load:
        load.wait(200)
        own_server.process.terminate()
        assert own_server.process.wait(20) == 0
    assert {outcome.error.split(":")[0] for outcome in load.failures()} == {"ConnectError"}


def test_idle_connections_are_closed_at_once(own_server: Server) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(own_server)) for _ in range(20)]
        own_server.client.get("/health/live")
        own_server.process.terminate()
        assert own_server.process.wait(20) == 0  # long before the keep-alive time of 75 s
        assert [read_response(connection) for connection in idle] == [b""] * 20


def test_request_beyond_the_deadline_gets_503(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start(create_bundle(tmp_path).parent.parent, PERCEPT_DEADLINE_S="0.5")
    with connect(server) as slow:
        slow.sendall(HEAD + PHOTO[:100])
        server.client.get("/health/live")
        signal_and_wait(server)
        response = read_response(slow)
    assert response.startswith(b"HTTP/1.1 503")
    assert b'"code":"not_ready"' in response
    assert b"\r\nx-request-id: " in response
    assert server.wait_for_log("POST /predict 503")
    assert server.process.wait(20) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_exits_at_once(own_server: Server, second: int) -> None:
    with connect(own_server) as slow:
        slow.sendall(HEAD + PHOTO[:100])
        own_server.client.get("/health/live")
        signal_and_wait(own_server)
        own_server.process.send_signal(second)
        own_server.process.wait(20)  # the deadline alone is 30 s
        assert not read_response(slow).startswith(b"HTTP/1.1 200")


@pytest.fixture
def blocked_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A server of a hundred bundles that blocks on the second one until the test writes to its manifest."""
    for version in range(1, 101):
        if version < 3:
            create_bundle(tmp_path, "m", version)
        else:
            (tmp_path / "m" / str(version)).symlink_to(tmp_path / "m" / "1")
    pipe = tmp_path / "m" / "2" / "manifest.json"
    pipe.unlink()
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, "-m", "percept", "serve", "--port", "0", "--models", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PERCEPT_DEVICE": "cpu"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    yield process
    process.kill()
    process.wait()
    assert process.stderr
    process.stderr.close()


def test_shutdown_stops_loading_after_the_current_bundle(
    blocked_process: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert blocked_process.stderr
    read_until(blocked_process, r"bundle m/1 is ")
    blocked_process.terminate()
    read_until(blocked_process, "Waiting for application shutdown")
    (tmp_path / "m" / "2" / "manifest.json").write_text("{}")
    log = blocked_process.stderr.read()
    assert blocked_process.wait(20) == 0
    assert "bundle m/2 is refused" in log
    assert "bundle m/100 is" not in log


def read_until(process: subprocess.Popen[str], pattern: str) -> None:
    """Read the log up to the first line that matches `pattern`."""
    assert process.stderr
    assert any(re.search(pattern, line) for line in process.stderr)
