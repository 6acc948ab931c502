"""Three replicas behind nginx on one machine: `deploy/nginx.conf` as it is, with other ports."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent.parent
NGINX = Path("/usr/sbin/nginx")
SHIPPED = ROOT / "deploy" / "nginx.conf"
REPLICAS = 3
TEMPORARY = "\n".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
# `user` is for tests that run as root, as its workers could not write below the folder of the test else.
AROUND = """
user root;
daemon off;
pid nginx.pid;
error_log error.log info;
worker_processes 2;
events {{ worker_connections 512; }}
http {{
    {temporary}
    log_format tried '$msec $status $request_time [$upstream_addr] [$upstream_status] $request';
    access_log access.log tried;
    add_header X-Upstream $upstream_addr always;
    include percept.conf;
}}
"""


class Replica:
    """One `percept serve` on a port of its own, started again and again."""

    def __init__(self, port: int, log: Path, settings: dict[str, str]) -> None:
        self.port, self.log, self._settings = port, log, settings
        self.address = f"127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.models: Path | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, models: Path) -> None:
        self.models = models
        own = {"PERCEPT_MODELS": str(models), "PERCEPT_PORT": str(self.port), "PERCEPT_DEVICE": "cpu", **self._settings}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "percept", "serve"],
                cwd=ROOT,
                env={**os.environ, **own},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def wait_ready(self) -> None:
        for _ in range(600):
            assert self.process
            assert self.process.poll() is None, f"the replica has ended:\n{self.log.read_text()[-2000:]}"
            with suppress(httpx.TransportError):
                if httpx.get(f"http://{self.address}/health/ready", timeout=10).status_code == 200:
                    return
            _pause(self.process)
        raise AssertionError(f"not ready within a minute:\n{self.log.read_text()[-2000:]}")

    def end(self, signal_: int = signal.SIGTERM) -> int:
        """Send a signal and wait until the process is gone; its exit status."""
        assert self.process
        self.process.send_signal(signal_)
        return self.process.wait(60)


class Fleet:
    """Replicas and the address of nginx in front of them."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        front, *behind = _ports(1 + REPLICAS)
        self.url = f"http://127.0.0.1:{front}"
        self.replicas = [Replica(port, folder / f"{port}.log", settings) for port in behind]
        self._nginx: subprocess.Popen[bytes] | None = None
        shipped = SHIPPED.read_text()
        for there, here in zip(("8000", "8001", "8002", "8003"), (front, *behind), strict=True):
            assert there in shipped
            shipped = shipped.replace(f" {there};", f" 127.0.0.1:{here};").replace(f":{there} ", f":{here} ")
        (folder / "percept.conf").write_text(shipped)
        (folder / "nginx.conf").write_text(AROUND.format(temporary=TEMPORARY))

    def start(self) -> None:
        """Start nginx."""
        command = [NGINX, "-p", self.folder, "-c", "nginx.conf", "-e", "error.log"]
        subprocess.run([*command, "-t", "-q"], check=True)
        self._nginx = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def serve(self, models: Path) -> None:
        """Let every replica serve these models; come back when nginx gives work to each of them."""
        for replica in self.replicas:
            if replica.running and replica.models != models:
                replica.end()
            if not replica.running:
                replica.start(models)
        for replica in self.replicas:
            replica.wait_ready()
        with httpx.Client(base_url=self.url) as client:
            missing = {replica.address for replica in self.replicas}
            for _ in range(500):
                missing.discard(client.get("/health/live").headers.get("x-upstream", ""))
                if not missing:
                    return
                time.sleep(0.02)
        raise AssertionError(f"nginx gives no work to {missing}:\n{(self.folder / 'error.log').read_text()[-2000:]}")

    def logged(self, request: str) -> str:
        """The line in nginx's log about a request, which it writes when it has answered."""
        for _ in range(500):
            for line in (self.folder / "access.log").read_text().splitlines():
                if request in line:
                    return line
            time.sleep(0.02)
        raise AssertionError(f"nginx has seen no {request}")

    def stop(self) -> None:
        if self._nginx:
            self._nginx.terminate()
            self._nginx.wait(20)
        for replica in self.replicas:
            if replica.running:
                replica.end()


@contextmanager
def fleet(folder: Path, **settings: str) -> Iterator[Fleet]:
    """nginx, and replicas that do not serve yet."""
    found = Fleet(folder, **settings)
    try:
        found.start()
        yield found
    finally:
        found.stop()


def _ports(count: int) -> list[int]:
    """Free ports that no outgoing connection takes while a replica is down: below those of the system's own choice."""
    found: list[int] = []
    while len(found) < count:
        port = random.randint(15000, 30000)
        with socket.socket() as trial:
            if port not in found and trial.connect_ex(("127.0.0.1", port)):
                found.append(port)
    return found


def _pause(process: subprocess.Popen[bytes]) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(0.1)
