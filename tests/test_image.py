"""The container image: it is small, holds what is locked, serves under a read-only root, and stops losing nothing."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path

import httpx
import pytest
from packaging.utils import canonicalize_name

from percept.settings import Settings
from tests.bundles import bundle
from tests.containers import Container, Image, mounted, running
from tests.photos import encoded, marked
from tests.test_requirements import PROJECT, locked

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()

BASE = "localhost/debian:bookworm-slim"
NAME = "localhost/percept:proof"
LIMIT_MB = 250
GRACE_S = 30  # Kubernetes gives as much
COMPILERS = {"as", "c++", "c89", "c99", "cc", "clang", "cpp", "g++", "gcc", "ld", "make", "nvcc", "rustc"}


def test_the_dockerfile_sets_what_the_service_reads_and_ends_with_the_cpu() -> None:
    assert {name.lower() for name in re.findall(r"PERCEPT_(\w+)=", DOCKERFILE)} <= Settings.model_fields.keys()
    assert re.findall(r"^FROM \S+ AS (\w+)", DOCKERFILE, re.MULTILINE)[-1] == "cpu"


@pytest.mark.parametrize(("models", "status"), [("bundles", 0), ("nothing", 1)])
def test_health_is_whether_the_service_is_ready(start, request, tmp_path: Path, models: str, status: int) -> None:
    folder = request.getfixturevalue("bundles") if models == "bundles" else tmp_path
    port = start(folder, wait=models == "bundles").client.base_url.port
    assert _health(port) == status


def test_health_fails_where_nothing_listens() -> None:
    assert _health(_free_port()) != 0


def _health(port: int | None) -> int:
    command = [sys.executable, "-IS", str(ROOT / "deploy" / "health.py")]
    return subprocess.run(command, env={"PERCEPT_PORT": str(port)}, stderr=subprocess.DEVNULL, timeout=60).returncode


@pytest.fixture(scope="module")
def base() -> Iterator[Image]:
    """The base image, made by debootstrap if it is not there."""
    needed = ["buildah", "debootstrap", "make", "nsenter", "setpriv", "unshare"]
    if missing := [each for each in needed if not shutil.which(each)]:
        pytest.skip(f"no image can be built here: {', '.join(missing)} not found")
    if os.geteuid() != 0:
        pytest.skip("no image can be built here: debootstrap and chroot need root")
    if subprocess.run(["buildah", "inspect", "--type", "image", BASE], capture_output=True).returncode:
        _make("base")
    with mounted(BASE) as image:
        yield image


@pytest.fixture(scope="module")
def image(base: Image) -> Iterator[Image]:
    """The image for the CPU, built from this checkout."""
    _make("image", f"BASE={BASE}", f"IMAGE={NAME}")
    with mounted(NAME) as image:
        yield image
    subprocess.run(["buildah", "rmi", NAME], check=True, capture_output=True)


@pytest.fixture
def photo() -> bytes:
    """A real photo if there is one."""
    real = ROOT.parent / "shared" / "images" / "coral_cat.bmp"
    return real.read_bytes() if real.is_file() else encoded(marked((640, 480), (200, 200), 90), "JPEG")


@pytest.mark.prove
def test_it_is_small(base: Image, image: Image) -> None:
    assert image.size - base.size < LIMIT_MB * 1e6


@pytest.mark.prove
def test_it_holds_what_is_locked_and_nothing_else(image: Image) -> None:
    folders = image.root.glob("opt/percept/lib/python3*/site-packages/*.dist-info")
    names = {canonicalize_name(name): version for name, version in (folder.stem.split("-") for folder in folders)}
    assert names == locked("cpu") | {"percept": PROJECT["project"]["version"]}
    assert not names.keys() & {"torch", "onnx", "pip", "setuptools"}


@pytest.mark.prove
def test_it_has_no_compiler_no_pip_and_no_cache(image: Image) -> None:
    files = [path.relative_to(image.root) for path in image.root.rglob("*") if not path.is_dir()]
    programs = {path.name for path in files if path.parent.name in {"bin", "sbin"}}
    assert {name for name in programs if re.sub(r"(^x86_64-linux-gnu-|-[\d.]+$)", "", name) in COMPILERS} == set()
    assert {name for name in programs if name.startswith(("pip", "curl", "wget"))} == set()
    caches = ("root/.cache/", "var/cache/apt/", "var/lib/apt/lists/", "tmp/", "source/", "wheel/")
    assert [path for path in files if str(path).startswith(caches)] == []
    assert [path for path in files if path.name in {"Makefile", "Dockerfile"} or path.parts[0] == "pip"] == []


@pytest.mark.prove
def test_it_answers_under_a_read_only_root_as_nobody_in_particular(image: Image, photo: bytes) -> None:
    with running(image, PERCEPT_PORT=str(_free_port())) as container, _ready(container) as client:
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
def test_its_health_check_tells_a_service_from_none(image: Image) -> None:
    kind, *check = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    with running(image, PERCEPT_PORT=str(_free_port())) as container, _ready(container):
        assert container.run(*check).returncode == 0
        assert container.run(*check, PERCEPT_PORT=str(_free_port())).returncode != 0


@pytest.mark.prove
def test_a_folder_mounted_over_models_is_served_instead(image: Image, tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    folder.mkdir(mode=0o755)
    bundle(folder, "mine")
    with running(image, folder, PERCEPT_PORT=str(_free_port())) as container, _ready(container) as client:
        assert [each["name"] for each in client.get("/models").json()["models"]] == ["mine"]


@pytest.mark.prove
def test_sigterm_loses_nothing_in_flight(image: Image, photo: bytes) -> None:
    paths = ["/cam?method=scorecam", "/cam?model=clothing&method=layercam", "/predict", "/features?layer=stage2"] * 2
    with running(image, PERCEPT_PORT=str(_free_port())) as container, _ready(container) as client:
        assert client.base_url.port
        begun = [_begin(client.base_url.port, path, len(photo)) for path in paths]
        for connection in begun:
            connection.sendall(photo)
        os.kill(container.pid, signal.SIGTERM)
        assert [_status(connection) for connection in begun] == [200] * len(paths)
        assert container.process.wait(GRACE_S) == 0


def _make(*arguments: str) -> None:
    """Run make; where there is no engine, builds have no isolation but chroot."""
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
    """HTTP to a container, once it is ready."""
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
    """A request that the service is known to have begun: it asks for the body, of so many bytes."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    connection.sendall(head.encode())
    assert connection.recv(100).startswith(b"HTTP/1.1 100")
    return connection


def _status(connection: socket.socket) -> int:
    """The status of the answer, once all of it has come."""
    with connection, HTTPResponse(connection) as answer:
        answer.begin()
        answer.read()
        return answer.status


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
