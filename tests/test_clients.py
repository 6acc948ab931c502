"""HTTP clients of several languages get the right answer: each script of `tests/clients` against a real server.

A script posts a photo to `/predict` and `/cam`, and prints the top class and the number of bytes of the heatmap.
"""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Server

CLIENTS = ROOT / "tests" / "clients"
PHOTO = ROOT / "docs" / "images" / "cat.jpg"
# The script → its command, the programs and the packages of Python that it needs.
SCRIPTS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "curl.sh": (["sh"], ["curl"], []),
    "Client.java": (["java"], ["java", "javac"], []),
    "fetch.mjs": (["node"], ["node"], []),
    "csharp_multipart.py": ([sys.executable], [], []),
    "python_requests.py": ([sys.executable], [], ["requests"]),
    "python_httpx.py": ([sys.executable], [], ["httpx"]),
}


@pytest.fixture(scope="module")
def built_in(start: Callable[..., Server]) -> Server:
    """A server of the built-in bundles."""
    return start()


@pytest.fixture(scope="module")
def expected(built_in: Server) -> list[str]:
    """The lines that every script prints."""
    data = PHOTO.read_bytes()
    prediction, heatmap = (built_in.client.post(path, content=data) for path in ("/predict", "/cam"))
    assert heatmap.content.startswith(b"\xff\xd8\xff")
    return [prediction.json()["predictions"][0]["label"], str(len(heatmap.content))]


def missing(programs: list[str], packages: list[str]) -> list[str]:
    """The programs and packages that are not installed."""
    found = [program for program in programs if shutil.which(program) is None]
    return found + [package for package in packages if importlib.util.find_spec(package) is None]


def test_every_script_is_run() -> None:
    assert {file.name for file in CLIENTS.iterdir() if file.is_file()} == SCRIPTS.keys()


@pytest.mark.parametrize("script", SCRIPTS)
def test_client_gets_the_answer(built_in: Server, expected: list[str], script: str, tmp_path: Path) -> None:
    command, programs, packages = SCRIPTS[script]
    if absent := missing(programs, packages):
        pytest.skip(f"not installed: {', '.join(absent)}")
    url = str(built_in.client.base_url).rstrip("/")
    done = subprocess.run(
        [*command, CLIENTS / script, url, PHOTO], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert [line.strip() for line in done.stdout.splitlines()] == expected
