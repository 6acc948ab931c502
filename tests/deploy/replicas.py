"""Three replicas behind nginx on one machine, with `deploy/nginx.conf` on other ports."""

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
DEPLOYED_CONF = ROOT / "deploy" / "nginx.conf"
REPLICAS = 3
TEMP_PATHS = "\n".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
# `user root`, because the tests may run as root, and nginx's default user cannot write into the folder of the test.
NGINX_CONF = """
user root;
daemon off;
pid nginx.pid;
error_log error.log info;
worker_processes 2;
events {{ worker_connections 512; }}
http {{
    {temp_paths}
    log_format tried '$msec $status $request_time [$upstream_addr] [$upstream_status] $request';
    access_log access.log tried;
    add_header X-Upstream $upstream_addr always;
    include percept.conf;
}}
"""


class Replica:
    """One `percept serve` on its own port, which can be started many times."""

    def __init__(self, port: int, log: Path, variables: dict[str, str]) -> None:
        self.port, self.log, self._variables = port, log, variables
        self.address = f"127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.models: Path | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, models: Path) -> None:
        self.models = models
        variables = {
            "PERCEPT_MODELS": str(models),
            "PERCEPT_PORT": str(self.port),
            "PERCEPT_DEVICE": "cpu",
            **self._variables,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "percept", "serve"],
                cwd=ROOT,
                env={**os.environ, **variables},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def wait_ready(self) -> None:
        for _ in range(600):
            assert self.process
            assert self.process.poll() is None, f"the replica has stopped:\n{self._log_end()}"
            with suppress(httpx.TransportError):
                if httpx.get(f"http://{self.address}/health/ready", timeout=10).status_code == 200:
                    return
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)
        raise AssertionError(f"not ready within a minute:\n{self._log_end()}")

    def stop(self, signal_: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the process to end, and return its exit status."""
        assert self.process
        self.process.send_signal(signal_)
        return self.process.wait(60)

    def _log_end(self) -> str:
        return self.log.read_text()[-2000:]


class ReplicaSet:
    """The replicas, and nginx in front of them at `url`."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        nginx_port, *ports = _choose_ports(1 + REPLICAS)
        self.url = f"http://127.0.0.1:{nginx_port}"
        self.replicas = [Replica(port, folder / f"{port}.log", variables) for port in ports]
        self._nginx: subprocess.Popen[bytes] | None = None
        conf = DEPLOYED_CONF.read_text()
        for deployed, port in zip(("8000", "8001", "8002", "8003"), (nginx_port, *ports), strict=True):
            assert deployed in conf
            conf = conf.replace(f" {deployed};", f" 127.0.0.1:{port};").replace(f":{deployed} ", f":{port} ")
        (folder / "percept.conf").write_text(conf)
        (folder / "nginx.conf").write_text(NGINX_CONF.format(temp_paths=TEMP_PATHS))

    def start_nginx(self) -> None:
        command: list[str | Path] = [NGINX, "-p", self.folder, "-c", "nginx.conf", "-e", "error.log"]
        subprocess.run([*command, "-t", "-q"], check=True)
        self._nginx = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def serve(self, models: Path) -> None:
        """Serve these models from every replica; returns once nginx sends requests to each of them."""
        for replica in self.replicas:
            if replica.running and replica.models != models:
                replica.stop()
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
        log = (self.folder / "error.log").read_text()[-2000:]
        raise AssertionError(f"nginx sends no requests to {missing}:\n{log}")

    def wait_for_log(self, text: str) -> str:
        """Return the first line of nginx's access log that contains `text`; waits up to 10 s for it."""
        for _ in range(500):
            for line in (self.folder / "access.log").read_text().splitlines():
                if text in line:
                    return line
            time.sleep(0.02)
        raise AssertionError(f"nginx has logged no {text!r}")

    def stop(self) -> None:
        if self._nginx:
            self._nginx.terminate()
            self._nginx.wait(20)
        for replica in self.replicas:
            if replica.running:
                replica.stop()


@contextmanager
def start_replicas(folder: Path, **variables: str) -> Iterator[ReplicaSet]:
    """Start nginx, with replicas that `serve` starts; stop all at the end."""
    replicas = ReplicaSet(folder, **variables)
    try:
        replicas.start_nginx()
        yield replicas
    finally:
        replicas.stop()


def _choose_ports(count: int) -> list[int]:
    """Choose free ports below the ephemeral range, so that no connection takes one while its replica is down."""
    found: list[int] = []
    while len(found) < count:
        port = random.randint(15000, 30000)
        with socket.socket() as probe:
            if port not in found and probe.connect_ex(("127.0.0.1", port)):
                found.append(port)
    return found
