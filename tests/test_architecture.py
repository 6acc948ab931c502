"""The architecture: imports run downwards, in the order of `docs/architecture.md`, and never up.

The place of a module is derived from its path, so that a new module cannot escape.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {"percept": ROOT / "service", "percept_models": ROOT / "models"}
# Every sub-package and top-level module, the lowest first.
ORDER = {
    "percept": (
        "",  # percept/__init__.py
        "errors",
        "settings",
        "process",
        "telemetry",
        "bundle",
        "imaging",
        "runtime",
        "tasks",
        "explain",
        "pipeline",
        "evaluation",
        "api",
        "oip",
        "server",
        "__main__",
    ),
    "percept_models": (
        "",
        "graph",
        "autodiff",
        "sources",
        "importer",
        "verify",
        "export",
        "check",
        "visualize",
        "training",
        "reference",
        "commands",
    ),
}
OFFLINE = {"torch", "torchvision", "timm", "onnx", "onnxscript", "percept_models"}
# What the export toolchain may use of the server: the bundle contract, imaging and sessions, never a model in service.
SHARED = (
    "percept",
    "percept.errors",
    "percept.settings",
    "percept.bundle",
    "percept.imaging",
    "percept.runtime.session",
)


def modules(package: str, source: Path | None = None) -> dict[str, Path]:
    """The files of a package by module name."""
    folder = source or SOURCES[package]
    found = {}
    for file in (folder / package).rglob("*.py"):
        name = ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
        found[name] = file
    return found


def imports(file: Path, known: dict[str, Path]) -> set[str]:
    """The modules among `known` that a file imports, wherever in it stands the import."""
    names = set(imported_names(file))
    return {name for name in names if name in known} | {name.rpartition(".")[0] for name in names} & known.keys()


def imported_names(file: Path) -> Iterator[str]:
    """Every dotted name that a file imports; `from a import b` is `a` and `a.b`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(module: str) -> int:
    """The place of a module in `ORDER`; raises `ValueError` where its package does not stand there."""
    package, _, rest = module.partition(".")
    return ORDER[package].index(rest.partition(".")[0])


def violations(package: str, source: Path | None = None) -> list[str]:
    """Imports that run upwards, modules that have no place, and import cycles."""
    known, found = modules(package, source), []
    graph = {}
    for module, file in known.items():
        graph[module] = imports(file, known) - {module}
        for target in graph[module]:
            try:
                if layer(target) > layer(module):
                    found.append(f"{module} imports {target}, which stands above it")
            except ValueError:
                found.append(f"{module} or {target} has no place in ORDER")
        try:
            layer(module)
        except ValueError:
            found.append(f"{module} has no place in ORDER")
    try:
        # A package's own __init__ is executed with every one of its modules: it counts as none of them here.
        TopologicalSorter({m: {t for t in ts if not m.startswith(f"{t}.")} for m, ts in graph.items()}).prepare()
    except CycleError as error:
        found.append(f"import cycle: {' -> '.join(error.args[1])}")
    return found


@pytest.mark.parametrize("package", SOURCES)
def test_imports_run_downwards(package: str) -> None:
    assert violations(package) == []


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("percept/imaging/encode.py", "from percept.api import body", "stands above"),
        ("percept/imaging/encode.py", "def f():\n    import percept.server.app", "stands above"),
        ("percept/novel.py", "", "no place"),
        ("percept/novel/thing.py", "from percept import errors", "no place"),
        ("percept/errors.py", "from percept.errors import late\nfrom percept.settings import Settings", "stands above"),
        ("percept/bundle/manifest.py", "from percept.bundle import filters", "cycle"),
    ],
)
def test_violation_is_found(tmp_path: Path, module: str, line: str, complaint: str) -> None:
    for file in modules("percept").values():
        copy = tmp_path / file.relative_to(SOURCES["percept"])
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(file.read_text())
    changed = tmp_path / module
    changed.parent.mkdir(parents=True, exist_ok=True)
    changed.write_text((changed.read_text() if changed.exists() else "") + f"\n{line}\n")
    assert any(complaint in one for one in violations("percept", tmp_path))


def test_every_package_states_what_it_may_import() -> None:
    for package in SOURCES:
        for name, file in modules(package).items():
            if file.name == "__init__.py" and "." in name:
                assert "May import" in (ast.get_docstring(ast.parse(file.read_text())) or ""), name


def test_the_server_never_imports_the_export_toolchain() -> None:
    for name, file in modules("percept").items():
        assert not {one.partition(".")[0] for one in imported_names(file)} & OFFLINE, name


def test_only_the_session_imports_onnx_runtime() -> None:
    files = modules("percept") | modules("percept_models")
    users = {
        name for name, file in files.items() if "onnxruntime" in {n.partition(".")[0] for n in imported_names(file)}
    }
    # ONNX Runtime's quantization tools; `percept.runtime.session` is imported before them.
    assert users == {"percept.runtime.session", "percept_models.export.precision"}


def test_the_export_toolchain_uses_only_the_shared_part_of_the_server() -> None:
    known = modules("percept")
    for name, file in modules("percept_models").items():
        used = imports(file, known)
        assert {one for one in used if not one.startswith(SHARED)} <= {"percept.runtime"}, name


def test_service_starts_without_torch_and_onnx() -> None:
    code = (
        "import sys\n"
        f"for name in {sorted(OFFLINE)}: sys.modules[name] = None\n"
        "from percept.server.app import create_app; create_app()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
