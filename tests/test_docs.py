"""The documentation is complete, its figures are those of the manifests, and its links resolve."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.modules import PAGE, with_modules
from percept.api.negotiation import MEDIA_TYPES
from percept.api.problems import PROBLEMS
from percept.bundle.integrity import read_manifest
from percept.explain.methods.table import METHODS
from percept.settings import BUILT_IN_BUNDLES, Settings, TracingSettings
from percept.telemetry.context import STAGES
from tests.pages import DEPLOYMENT, PAGES, ROOT, name, quoted, section, text
from tests.test_architecture import ORDER

SECTIONS = ("/predict", "/features", "/cam", "/models")  # of the page `api`


@pytest.fixture(scope="module")
def service(start) -> Any:
    """A server of the built-in bundles, which may load and unload models."""
    return start(PERCEPT_MODEL_CONTROL="explicit").client


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
