"""The declared dependencies: they cover every import, and the lock files of the images agree with pyproject.toml."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {file.stem: file.read_text() for file in (ROOT / "deploy" / "requirements").glob("*.txt")}
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IMAGE = {"sys_platform": "linux", "platform_machine": "x86_64", "python_version": "3.11", "extra": ""}
CPU_PACKAGES = {"onnxruntime-gpu": "onnxruntime"}  # pyproject.toml's package: the one in the CPU image
# What the folders of code may import at the top of a module: the project's dependencies and these extras.
EXTRAS = {
    "service/percept": (),
    "models/percept_models": ("export",),
    "tests": ("export", "zoo", "otel", "test"),
    "benchmarks": ("export", "zoo", "test"),
}
# The packages that only a function imports need the extra that installs them.
OPTIONAL = {"service/percept": ("cuda", "otel", "heif", "jxl")}
OWN = {"percept", "percept_models", "tests", "benchmarks", "docs"}


def locked_versions(name: str) -> dict[str, str]:
    """Version by package of a lock file."""
    found = re.findall(r"^([\w.-]+)==(\S+)", LOCKS[name], re.MULTILINE)
    return {canonicalize_name(package): version for package, version in found}


def image_requirements(name: str) -> list[Requirement]:
    """The requirements in pyproject.toml for an image, with the extras that the Makefile names for it."""
    if name == "build":
        return [Requirement(line) for line in PROJECT["build-system"]["requires"]]
    extras = re.search(rf"^{name.upper()}_EXTRAS := *(.*)$", MAKEFILE, re.MULTILINE)
    assert extras
    lines = PROJECT["project"]["dependencies"] + [
        line for extra in extras[1].split() for line in PROJECT["project"]["optional-dependencies"][extra]
    ]
    requirements = [Requirement(line) for line in lines]
    return [each for each in requirements if each.marker is None or each.marker.evaluate(IMAGE)]


@pytest.mark.parametrize("name", LOCKS)
def test_locked_versions_satisfy_the_requirements(name: str) -> None:
    versions = locked_versions(name)
    for requirement in image_requirements(name):
        package = CPU_PACKAGES.get(requirement.name, requirement.name) if name == "cpu" else requirement.name
        assert requirement.specifier.contains(versions[canonicalize_name(package)]), requirement


def test_both_images_have_the_same_versions() -> None:
    cpu, cuda = locked_versions("cpu"), locked_versions("cuda")
    assert cpu.pop("onnxruntime") == cuda.pop("onnxruntime-gpu")
    assert cpu.items() <= cuda.items()
    assert {name for name in cuda.keys() - cpu.keys() if not name.startswith("nvidia-")} == set()


@pytest.mark.parametrize("name", LOCKS)
def test_lock_files_have_hashes_and_no_addresses(name: str) -> None:
    text = LOCKS[name]
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    assert all(re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry, re.DOTALL) for entry in entries)
    assert "://" not in text
    assert "--index" not in text


def declared(extras: Iterable[str]) -> set[str]:
    """The names of the packages that the project and some of its extras require."""
    lines = list(PROJECT["project"]["dependencies"])
    for extra in extras:
        lines += PROJECT["project"]["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def imported(folder: str, anywhere: bool) -> dict[str, Path]:
    """Other people's packages that a folder imports, each with a file that does: at the top of modules, or anywhere."""
    found: dict[str, Path] = {}
    for file in (ROOT / folder).rglob("*.py"):
        if "peers" in file.parts:  # written for the environments of other servers
            continue
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree) if anywhere else tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.partition(".")[0]: file for name in names}
    return {name: file for name, file in found.items() if name not in OWN | sys.stdlib_module_names}


@pytest.mark.parametrize("folder", EXTRAS)
@pytest.mark.parametrize("anywhere", [False, True])
def test_every_import_is_declared(folder: str, anywhere: bool) -> None:
    distributions = packages_distributions()
    allowed = declared(EXTRAS[folder] + (OPTIONAL.get(folder, ()) if anywhere else ()))
    for name, file in imported(folder, anywhere).items():
        assert allowed & {canonicalize_name(found) for found in distributions[name]}, f"{file} imports {name}"
