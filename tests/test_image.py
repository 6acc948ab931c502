"""The image is small, has the locked packages only, serves with a read-only root, and its shutdown drops no request."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path

import httpx
import pytest
from packaging.utils import canonicalize_name

from percept.settings import Settings
from tests.bundles import create_bundle
from tests.conftest import ROOT, SHARED, Server
from tests.containers import Container, Image, mount_image, run_container
from tests.photos import draw_marker, encode_photo
from tests.test_requirements import PROJECT, locked_versions

DOCKERFILE = (ROOT / "Dockerfile").read_text()

BASE = "localhost/debian:bookworm-slim"
NAME = "localhost/percept:test"
LIMIT_MB = 250
GRACE_S = 30  # the default of Kubernetes
COMPILERS = {"as", "c++", "c89", "c99", "cc", "clang", "cpp", "g++", "gcc", "ld", "make", "nvcc", "rustc"}


def test_dockerfile_sets_known_variables_and_ends_with_cpu() -> None:
    assert {name.lower() for name in re.findall(r"PERCEPT_(\w+)=", DOCKERFILE)} <= Settings.model_fields.keys()
    assert re.findall(r"^FROM \S+ AS (\w+)", DOCKERFILE, re.MULTILINE)[-1] == "cpu"


def test_health_check_succeeds_for_a_ready_service(server: Server) -> None:
    assert _check_health(server.client.base_url.port) == 0


def test_health_check_fails_without_models(start: Callable[..., Server], tmp_path: Path) -> None:
    assert _check_health(start(tmp_path, wait=False).client.base_url.port) == 1


def test_health_check_fails_without_a_service() -> None:
    assert _check_health(_free_port()) != 0


def _check_health(port: int | None) -> int:
    command = [sys.executable, "-IS", str(ROOT / "deploy" / "health.py")]
    return subprocess.run(command, env={"PERCEPT_PORT": str(port)}, stderr=subprocess.DEVNULL, timeout=60).returncode


@pytest.fixture(scope="module")
def base() -> Iterator[Image]:
    """The base image; it is built with debootstrap if it does not exist."""
    tools = ["buildah", "debootstrap", "make", "nsenter", "setpriv", "unshare"]
    if missing := [each for each in tools if not shutil.which(each)]:
        pytest.skip(f"cannot build an image: {', '.join(missing)} not found")
    if os.geteuid() != 0:
        pytest.skip("cannot build an image: debootstrap and chroot need root")
    if subprocess.run(["buildah", "inspect", "--type", "image", BASE], capture_output=True).returncode:
        _make("base")
    with mount_image(BASE) as image:
        yield image


@pytest.fixture(scope="module")
def image(base: Image) -> Iterator[Image]:
    """The image for the CPU, built from this checkout."""
    _make("image", f"BASE={BASE}", f"IMAGE={NAME}")
    with mount_image(NAME) as image:
        yield image
    subprocess.run(["buildah", "rmi", NAME], check=True, capture_output=True)


@pytest.fixture
def photo() -> bytes:
    """A real photo if the assets exist, else a drawn one."""
    real = SHARED / "images" / "coral_cat.bmp"
    return real.read_bytes() if real.is_file() else encode_photo(draw_marker((640, 480), (200, 200), 90), "JPEG")


@pytest.mark.prove
def test_image_is_small(base: Image, image: Image) -> None:
    assert image.size - base.size < LIMIT_MB * 1e6


@pytest.mark.prove
def test_image_has_the_locked_packages_only(image: Image) -> None:
    folders = image.root.glob("opt/percept/lib/python3*/site-packages/*.dist-info")
    names = {canonicalize_name(name): version for name, version in (folder.stem.split("-") for folder in folders)}
    assert names == locked_versions("cpu") | {"percept-serve": PROJECT["project"]["version"]}
    assert not names.keys() & {"torch", "onnx", "pip", "setuptools"}


@pytest.mark.prove
def test_image_has_no_build_tools_or_caches(image: Image) -> None:
    files = [path.relative_to(image.root) for path in image.root.rglob("*") if not path.is_dir()]
    programs = {path.name for path in files if path.parent.name in {"bin", "sbin"}}
    assert {name for name in programs if re.sub(r"(^x86_64-linux-gnu-|-[\d.]+$)", "", name) in COMPILERS} == set()
    assert {name for name in programs if name.startswith(("pip", "curl", "wget"))} == set()
    caches = ("root/.cache/", "var/cache/apt/", "var/lib/apt/lists/", "tmp/", "source/", "wheel/")
    assert [path for path in files if str(path).startswith(caches)] == []
    assert [path for path in files if path.name in {"Makefile", "Dockerfile"} or path.parts[0] == "pip"] == []


@pytest.mark.prove
def test_service_runs_unprivileged_with_a_read_only_root(image: Image, photo: bytes) -> None:
    with run_container(image, PERCEPT_PORT=str(_free_port())) as container, _ready(container) as client:
        status = container.status()
        assert (status["Uid"], status["Gid"]) == (" ".join(["10001"] * 4),) * 2
        assert int(status["CapEff"], 16) == 0
        assert status["NSpid"].split()[-1] == "1"
        assert "Read-only file system" in container.run("touch", "/tmp/written").stderr
        assert [each["name"] for each in client.get("/models").json()["models"]] == ["cifar10", "clothing"]
        assert client.post("/predict", content=photo).json()["model"]["name"] == "cifar10"
        heat = client.post("/cam", params={"model": "clothing"}, content=photo)
        assert (heat.status_code, heat.headers["content-type"]) == (200, "image/jpeg")


@pytest.mark.prove
def test_health_check_works_in_the_container(image: Image) -> None:
    kind, *check = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    with run_container(image, PERCEPT_PORT=str(_free_port())) as container, _ready(container):
        assert container.run(*check).returncode == 0
        assert container.run(*check, PERCEPT_PORT=str(_free_port())).returncode != 0


@pytest.mark.prove
def test_mounted_folder_replaces_the_built_in_bundles(image: Image, tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    folder.mkdir(mode=0o755)
    create_bundle(folder, "mine")
    with run_container(image, folder, PERCEPT_PORT=str(_free_port())) as container, _ready(container) as client:
        assert [each["name"] for each in client.get("/models").json()["models"]] == ["mine"]


@pytest.mark.prove
def test_sigterm_drops_no_request_in_flight(image: Image, photo: bytes) -> None:
    paths = ["/cam?method=scorecam", "/cam?model=clothing&method=layercam", "/predict", "/features?layer=stage2"] * 2
    with run_container(image, PERCEPT_PORT=str(_free_port())) as container, _ready(container) as client:
        assert client.base_url.port
        connections = [_begin(client.base_url.port, path, len(photo)) for path in paths]
        for connection in connections:
            connection.sendall(photo)
        os.kill(container.pid, signal.SIGTERM)
        assert [_status(connection) for connection in connections] == [200] * len(paths)
        assert container.process.wait(GRACE_S) == 0


def _make(*arguments: str) -> None:
    """Run make with buildah, in chroot isolation, which needs no container runtime."""
    done = subprocess.run(
        ["make", *arguments, "CONTAINER=buildah"],
        cwd=ROOT,
        env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@contextmanager
def _ready(container: Container) -> Iterator[httpx.Client]:
    """Wait until the service in a container is ready, and return an HTTP client for it."""
    with httpx.Client(base_url=f"http://127.0.0.1:{container.environment['PERCEPT_PORT']}", timeout=60) as client:
        while container.process.poll() is None:
            try:
                if client.get("/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass  # it does not listen yet
            time.sleep(0.05)
        else:
            raise AssertionError("the container stopped while loading")
        yield client


def _begin(port: int, path: str, length: int) -> socket.socket:
    """Send the head of a request and wait until the service asks for the body of `length` bytes."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    connection.sendall(head.encode())
    assert connection.recv(100).startswith(b"HTTP/1.1 100")
    return connection


def _status(connection: socket.socket) -> int:
    """Read a response to its end and return its status."""
    with connection, HTTPResponse(connection) as response:
        response.begin()
        response.read()
        return response.status


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
