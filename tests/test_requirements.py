"""What images are made of, locked by version and hash, is what pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {file.stem: file.read_text() for file in (ROOT / "deploy" / "requirements").glob("*.txt")}
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MACHINE = {"sys_platform": "linux", "platform_machine": "x86_64", "python_version": "3.11", "extra": ""}
PLAIN = {"onnxruntime-gpu": "onnxruntime"}  # what the cpu image has in place of what pyproject.toml asks for


def locked(name: str) -> dict[str, str]:
    """Version by package of a locked list."""
    found = re.findall(r"^([\w.-]+)==(\S+)", LOCKS[name], re.MULTILINE)
    return {canonicalize_name(package): version for package, version in found}


def asked(name: str) -> list[Requirement]:
    """What pyproject.toml asks for on the machine of an image, with the extras that the Makefile gives it."""
    if name == "build":
        return [Requirement(line) for line in PROJECT["build-system"]["requires"]]
    extras = re.search(rf"^{name.upper()}_EXTRAS := *(.*)$", MAKEFILE, re.MULTILINE)
    assert extras
    lines = PROJECT["project"]["dependencies"] + [
        line for extra in extras[1].split() for line in PROJECT["project"]["optional-dependencies"][extra]
    ]
    wanted = [Requirement(line) for line in lines]
    return [one for one in wanted if one.marker is None or one.marker.evaluate(MACHINE)]


@pytest.mark.parametrize("name", LOCKS)
def test_all_that_the_project_asks_for_is_locked_in_a_version_that_it_allows(name: str) -> None:
    versions = locked(name)
    for one in asked(name):
        package = PLAIN.get(one.name, one.name) if name == "cpu" else one.name
        assert one.specifier.contains(versions[canonicalize_name(package)]), one


def test_both_images_have_the_same_versions() -> None:
    cpu, cuda = locked("cpu"), locked("cuda")
    assert cpu.pop("onnxruntime") == cuda.pop("onnxruntime-gpu")
    assert cpu.items() <= cuda.items()
    assert {name for name in cuda.keys() - cpu.keys() if not name.startswith("nvidia-")} == set()


@pytest.mark.parametrize("name", LOCKS)
def test_what_is_locked_has_hashes_and_names_no_host(name: str) -> None:
    text = LOCKS[name]
    wanted = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    assert all(re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", one, re.DOTALL) for one in wanted)
    assert "://" not in text
    assert "--index" not in text
