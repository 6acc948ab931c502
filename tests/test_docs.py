"""The documentation: its commands run, it names everything there is, its links resolve.

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
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from docs.modules import PAGE, with_modules
from percept.api.negotiation import MEDIA_TYPES
from percept.api.problems import PROBLEMS
from percept.bundle.integrity import read_manifest
from percept.explain.methods.table import METHODS
from percept.settings import BUILT_IN_BUNDLES, Settings, TracingSettings
from percept.telemetry.context import STAGES
from tests.test_architecture import ORDER

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
DEPLOYMENT = sorted((ROOT / "deploy").glob("*.md"))
BLOCK = re.compile(
    r"(?:^<!-- (?P<marker>.*?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
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
SECTIONS = {"/predict": "/predict", "/features": "/features", "/cam": "/cam", "/models": "/models"}


class Block(NamedTuple):
    """A fenced block of a page, and the comment above it."""

    page: Path
    marker: str
    language: str
    code: str


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    for found in BLOCK.finditer(page.read_text()):
        yield Block(page, found["marker"] or "", found["language"], found["code"])


def text(name: str) -> str:
    """A page of `docs/`."""
    return (ROOT / "docs" / f"{name}.md").read_text()


def section(page: str, heading: str) -> str:
    """The part of a page of `docs/` below a heading of the second level."""
    return text(page).split(f"\n## {heading}\n")[1].split("\n## ")[0]


def quoted(markdown: str) -> str:
    """All that stands between backticks."""
    return " ".join(re.findall(r"`([^`\n]+)`", markdown))


def name(page: Path) -> str:
    """A page as pytest shows it."""
    return str(page.relative_to(ROOT))


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


# Commands


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


# Completeness


def endpoints(service: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of every endpoint in OpenAPI."""
    for path, methods in service.get("/openapi.json").json()["paths"].items():
        for method, described in methods.items():
            yield method.upper(), path, described


def page_of(path: str) -> str:
    if path.startswith("/v2"):
        return "open-inference-protocol"
    return "operations" if path.startswith(("/health", "/metrics")) else "api"


def enumerated(schema: dict[str, Any]) -> Iterator[str]:
    """Every value that a parameter may have, where they are few."""
    for part in (schema, schema.get("items", {}), *schema.get("anyOf", [])):
        values = [*part.get("enum", []), *([part["const"]] if "const" in part else [])]
        yield from (value for value in values if isinstance(value, str))


def test_every_endpoint_is_named(service) -> None:
    missing = [
        f"{method} {path}" for method, path, _ in endpoints(service) if f"`{method} {path}`" not in text(page_of(path))
    ]
    assert missing == []


def test_every_parameter_and_value_is_named(service) -> None:
    missing = []
    for method, path, described in endpoints(service):
        if page_of(path) != "api":
            continue
        heading = next(one for one in SECTIONS if path.startswith(one))
        named = quoted(section("api", f"`{heading}`") + section("api", "Images, models, formats"))
        for parameter in described.get("parameters", []):
            here = named if parameter["name"] != "method" else quoted(text("explanations")) + " method"
            for word in (parameter["name"], *enumerated(parameter["schema"])):
                if parameter["in"] == "query" and not re.search(rf"(?<![\w+]){re.escape(word)}(?![\w+])", here):
                    missing.append(f"{method} {path} {parameter['name']}: {word}")
    assert missing == []


def test_every_metric_is_named_and_exists(service) -> None:
    service.post("/predict", content=(ROOT / "docs" / "images" / "cat.jpg").read_bytes())
    lines = service.get("/metrics").text
    served = set(re.findall(r"^# TYPE (percept_\w+)", lines, re.MULTILINE))
    named = set(re.findall(r"`(percept_\w+)`", section("operations", "Metrics")))
    assert named - served <= {"percept_gpu_memory_used_bytes", "percept_gpu_memory_total_bytes"}
    assert served <= named


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_is_described(name: str) -> None:
    assert f"`{name}`" in section("operations", "Stages of a request")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name: str) -> None:
    assert f"`PERCEPT_{name.upper()}`" in text("configuration")


def test_every_named_setting_exists() -> None:
    named = {name for page in [*PAGES, *DEPLOYMENT] for name in re.findall(r"PERCEPT_([A-Z_]+)", page.read_text())}
    assert {name.lower() for name in named} <= set(Settings.model_fields)


@pytest.mark.parametrize("name", TracingSettings.model_fields)
def test_every_opentelemetry_variable_is_described(name: str) -> None:
    assert f"`OTEL_{name.upper()}`" in section("operations", "Traces")


@pytest.mark.parametrize("kind", PROBLEMS.values(), ids=lambda kind: kind.code)
def test_every_error_code_is_described_with_its_status(kind) -> None:
    errors = section("api", "Errors")
    assert re.search(rf"^\| [\d, ]*{kind.status}[\d, ]* \|.*`{kind.code}`", errors, re.MULTILINE)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_an_equation_and_a_cost(name: str) -> None:
    rows = [line.split(" | ")[0] for line in section("explanations", "Methods").splitlines() if line.startswith("| `")]
    assert sum(f"`{name}`" in row for row in rows) == 2


def test_pages_state_the_number_of_methods() -> None:
    counts = [count for page in PAGES for count in re.findall(r"(\d+) methods", page.read_text())]
    assert set(counts) == {str(len(METHODS))}


@pytest.mark.parametrize("name", MEDIA_TYPES.values())
def test_every_media_type_is_named(name: str) -> None:
    assert f"`{name}`" in section("api", "Images, models, formats")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_described(command: str) -> None:
    described = "".join(page.read_text() for page in PAGES)
    assert options(command) - {"--help"} - set(re.findall(r"--[a-z][a-z0-9-]*", described)) == set()
    assert f"percept {command}" in described


@pytest.mark.parametrize("name", ["cifar10", "clothing"])
def test_figures_of_the_built_in_models_are_those_of_their_manifests(name: str) -> None:
    row = re.search(rf"^\| `{name}` \|(.*)$", section("bundles", "The built-in models"), re.MULTILINE)
    assert row
    for value in read_manifest(BUILT_IN_BUNDLES / name / "1").provenance.metrics.values():
        assert f"{value:.4f}" in row[1]


def test_architecture_lists_every_module() -> None:
    assert PAGE.read_text() == with_modules(PAGE.read_text()), "run: python docs/modules.py"


@pytest.mark.parametrize("package", ORDER)
def test_architecture_states_the_order_of_imports(package: str) -> None:
    row = re.search(rf"^- `{package}`: (.*)$", text("architecture"), re.MULTILINE)
    assert row
    assert re.findall(r"`(\w+)`", row[1]) == [one for one in ORDER[package] if one]


# Form


def test_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= 8192


def test_no_page_installs_the_wrong_distribution() -> None:
    pages = [*PAGES, *DEPLOYMENT]
    assert [name(page) for page in pages if re.search(r"pip install ['\"]?percept\b(?!-)", page.read_text())] == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub derives them."""
    plain = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", plain, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *DEPLOYMENT], ids=name)
def test_links_resolve(page: Path) -> None:
    plain = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", plain):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name)
def test_named_source_files_exist(page: Path) -> None:
    named = re.findall(r"`((?:service|models|tests|benchmarks|deploy|docs)/[\w./-]+)`", page.read_text())
    assert [file for file in named if not (ROOT / file).exists()] == []
