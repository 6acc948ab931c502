"""How the process ends: nothing that was asked is lost, nobody is waited for in vain, and status 0."""

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

from tests.bundles import bundle
from tests.conftest import ROOT, Server
from tests.deploy.load import load
from tests.photos import encoded, marked

PHOTO = encoded(marked((320, 240), (100, 100), 40), "JPEG")
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(PHOTO)


@pytest.fixture
def own(start: Callable[..., Server], tmp_path: Path) -> Server:
    """A server for one test, that it may stop."""
    return start(bundle(tmp_path).parent.parent)


def connected(server: Server) -> socket.socket:
    base = server.client.base_url
    return socket.create_connection((base.host, base.port), timeout=60)


def told(server: Server, signal_: int = signal.SIGTERM) -> None:
    """Send a signal and come back when new connections are refused."""
    server.process.send_signal(signal_)
    for _ in range(1000):
        try:
            connected(server).close()
        except ConnectionError:
            return
        time.sleep(0.02)
    raise AssertionError("connections are still accepted")


def answer(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    with connection.makefile("rb") as stream:
        return stream.read()


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_are_answered_then_connections_are_refused_and_the_status_is_0(
    own: Server, signal_: int
) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(own)) for _ in range(4)]
        for client in clients:
            client.sendall(HEAD + PHOTO[:100])
        told(own, signal_)
        for client in clients:
            client.sendall(PHOTO[100:])
        answers = [answer(client) for client in clients]
    assert all(one.startswith(b"HTTP/1.1 200") for one in answers)
    assert all(b"connection: close" in one for one in answers)
    assert own.process.wait(20) == 0


@pytest.mark.parametrize("kept", [0, 1])
def test_clients_that_never_rest_see_answers_then_refused_connections_and_nothing_else(own: Server, kept: int) -> None:
    """When the signal comes, some are just sending over a connection that they kept, or that is not accepted yet."""
    with load(str(own.client.base_url), [("/predict", PHOTO)], 24, kept) as found:
        found.wait(200)
        own.process.terminate()
        assert own.process.wait(20) == 0
    assert {one.error.split(":")[0] for one in found.failures()} == {"ConnectError"}


def test_idle_connections_do_not_keep_the_process(own: Server) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(connected(own)) for _ in range(20)]
        own.client.get("/health/live")
        own.process.terminate()
        assert own.process.wait(20) == 0  # long before their 75 s are over
        assert [answer(one) for one in idle] == [b""] * 20


def test_who_still_sends_when_the_deadline_is_over_is_told_to_go_elsewhere(start, tmp_path: Path) -> None:
    server = start(bundle(tmp_path).parent.parent, PERCEPT_DEADLINE_S="0.5")
    with connected(server) as slow:
        slow.sendall(HEAD + PHOTO[:100])
        server.client.get("/health/live")
        told(server)
        said = answer(slow)
    assert said.startswith(b"HTTP/1.1 503")
    assert b'"code":"not_ready"' in said
    assert server.process.wait(20) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_waits_for_nobody(own: Server, second: int) -> None:
    with connected(own) as slow:
        slow.sendall(HEAD + PHOTO[:100])
        own.client.get("/health/live")
        told(own)
        own.process.send_signal(second)
        own.process.wait(20)  # the deadline alone is 30 s
        assert not answer(slow).startswith(b"HTTP/1.1 200")


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A server whose second bundle of a hundred cannot be read to its end before somebody writes to `tmp_path/m/2`."""
    for version in range(1, 101):
        if version < 3:
            bundle(tmp_path, "m", version)
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


def test_while_bundles_are_loaded_the_one_at_hand_is_the_last(stuck: subprocess.Popen[str], tmp_path: Path) -> None:
    assert stuck.stderr
    read_until(stuck, r"bundle m/1 is ")
    stuck.terminate()
    read_until(stuck, "Waiting for application shutdown")
    (tmp_path / "m" / "2" / "manifest.json").write_text("{}")
    rest = stuck.stderr.read()
    assert stuck.wait(20) == 0
    assert "bundle m/2 is refused" in rest
    assert "bundle m/100 is" not in rest


def read_until(process: subprocess.Popen[str], pattern: str) -> None:
    assert process.stderr
    assert any(re.search(pattern, line) for line in process.stderr)
