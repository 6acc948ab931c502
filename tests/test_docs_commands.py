"""The commands of the documentation run and give what the pages show.

Every `sh` block of a page stands below a marker: `<!-- run -->`, `<!-- run: slow -->` (by `make prove`),
`<!-- run: fails -->` (the status must not be 0), or `<!-- not run: REASON -->`.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from tests.pages import PAGES, ROOT, Block, blocks, name, text

MARKER = re.compile(r"run(: slow|: fails)?|not run: \w.+")
# What a block finds in its shell: an address in the place of port 8000, and a server that stops once it has loaded.
PRELUDE = """
set -eu -o pipefail
curl() { command curl --fail --silent --show-error "$@"; }
percept() {
    if [ "$1" != serve ]; then command percept "$@"; return; fi
    PERCEPT_PORT=0 command percept "$@" 2> serve.log &
    for _ in $(seq 300); do grep -q 'is served' serve.log && break; sleep 0.1; done
    grep 'is served' serve.log || cat serve.log
    kill $!
    wait $!
}
"""
COMMANDS = sorted(point.name for point in entry_points(group="percept.commands"))


@pytest.fixture(scope="module")
def service(start) -> Any:
    """A server of the built-in bundles, which may load and unload models."""
    return start(PERCEPT_MODEL_CONTROL="explicit").client


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """An empty folder that shows `docs` and `models` as the root of the checkout does."""
    for folder in ("docs", "models"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    return tmp_path


def run(block: Block, folder: Path, address: str) -> str:
    """Run a block in a folder; returns what it printed."""
    code = block.code.replace("localhost:8000", address)
    command = [sys.executable, "-c", code] if block.language == "python" else ["bash", "-c", PRELUDE + code]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PERCEPT_")}
    done = subprocess.run(
        command, cwd=folder, env=environment | {"PATH": path}, capture_output=True, text=True, errors="replace"
    )
    assert (done.returncode != 0) == (block.marker == "run: fails"), f"{block.code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_page(page: Path, workspace: Path, service: Any, *markers: str) -> None:
    for block in blocks(page):
        if block.marker in markers:
            run(block, workspace, service.base_url.netloc.decode())


def with_blocks(*markers: str) -> list[Path]:
    return [page for page in PAGES if any(block.marker in markers for block in blocks(page))]


@pytest.mark.parametrize("page", with_blocks("run", "run: fails"), ids=name)
def test_commands_run(page: Path, workspace: Path, service) -> None:
    run_page(page, workspace, service, "run", "run: fails")


@pytest.mark.prove
@pytest.mark.parametrize("page", with_blocks("run: slow"), ids=name)
def test_slow_commands_run(page: Path, workspace: Path, service) -> None:
    run_page(page, workspace, service, "run: slow")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_marked(page: Path) -> None:
    unmarked = [one.code for one in blocks(page) if one.language == "sh" and not MARKER.fullmatch(one.marker)]
    assert unmarked == []


def commands(page: Path) -> Iterator[str]:
    """The lines of a page's `sh` blocks, without their comments."""
    for block in blocks(page):
        if block.language == "sh":
            yield from (re.split(r"\s+#", line)[0] for line in block.code.splitlines())


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {target for line in commands(page) for target in re.findall(r"\bmake ((?:[a-z-]+ ?)+)", line)}
    assert {target for words in named for target in words.split()} <= set(targets)


@cache
def options(command: str) -> frozenset[str]:
    """The options of a subcommand of `percept`, or of a script in `benchmarks/`."""
    if command in COMMANDS:
        said = subprocess.run(
            [sys.executable, "-m", "percept", command, "--help"], check=True, capture_output=True, text=True
        ).stdout
    else:
        harness = (ROOT / "benchmarks" / "harness").glob("*.py")
        said = "".join(file.read_text() for file in (ROOT / command, *harness))
    return frozenset(re.findall(r"--[a-z][a-z0-9-]*", said))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_exist(page: Path) -> None:
    used = re.compile(rf"\b(?:percept ({'|'.join(COMMANDS)})|python (benchmarks/\w+\.py))\b(.*)")
    for line in commands(page):
        for command, script, rest in used.findall(line):
            assert set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", rest)) <= options(command or script), line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_described(command: str) -> None:
    described = "".join(page.read_text() for page in PAGES)
    assert options(command) - {"--help"} - set(re.findall(r"--[a-z][a-z0-9-]*", described)) == set()
    assert f"percept {command}" in described


def test_archive_holds_the_documented_files(workspace: Path, service) -> None:
    block = next(one for one in blocks(ROOT / "docs" / "api.md") if "-o cam.zip" in one.code)
    run(block, workspace, service.base_url.netloc.decode())
    with ZipFile(workspace / "cam.zip") as archive:
        found = archive.namelist()
    table = text("api").split("| file | |\n|---|---|\n")[1].split("\n\n")[0]
    assert found == [file for file in re.findall(r"^\| `([\w.]+)`", table, re.MULTILINE) if file != "sheet.jpg"]


def test_triton_client_gets_the_documented_tensors(workspace: Path, service) -> None:
    block = next(one for one in blocks(ROOT / "docs" / "open-inference-protocol.md") if one.language == "python")
    printed = run(block, workspace, service.base_url.netloc.decode())
    assert printed.strip().endswith("(1, 224, 8, 8) (1, 8, 8)")


# Pictures


def test_pictures_are_those_that_the_service_makes(workspace: Path, service) -> None:
    run_page(ROOT / "docs" / "images" / "README.md", workspace, service, "run")
    made = list(workspace.glob("*.jpg"))
    assert len(made) == 3
    for file in made:
        with Image.open(file) as new, Image.open(ROOT / "docs" / "images" / file.name) as shown:
            assert new.size == shown.size
            assert np.abs(np.asarray(new, np.int16) - np.asarray(shown, np.int16)).mean() < 3


def test_pictures_are_small_and_have_a_source() -> None:
    folder = ROOT / "docs" / "images"
    files = [file for file in folder.iterdir() if file.suffix != ".md"]
    assert sum(file.stat().st_size for file in files) <= 150_000
    assert {file.name for file in files} <= set(re.findall(r"[\w.]+", (folder / "README.md").read_text()))
