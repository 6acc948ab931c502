"""The distribution: the wheel is complete, it works in a fresh environment, and users' modules keep their names."""

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.conftest import Server
from tests.photos import draw_marker, encode_photo

ROOT = Path(__file__).resolve().parent.parent
# The folders that hold the code of this project are common names in the projects of users.
SOURCES = ("models.net:small", "service.net:small", "tests.net:small")
NETWORK = """
from torch import nn

def small() -> nn.Module:
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), *pool)
"""


def build(source: Path, folder: Path) -> Path:
    """The wheel of a source tree or of an sdist."""
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    return next(folder.glob("percept_serve-*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout."""
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the sdist of the checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder)], cwd=ROOT, check=True)
    return build(next(folder.glob("percept_serve-*.tar.gz")), folder)


@pytest.fixture(scope="module")
def fresh_bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment that holds the wheel. Its dependencies are those of the test environment.

    A `.pth` file adds their folder after the new environment's own. Python executes no `.pth` file in a folder that was
    added so: the editable installation in the test environment stays out of reach.
    """
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    packages = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
    dependencies = [path for path in sys.path if Path(path).name == "site-packages"]
    (Path(packages) / "dependencies.pth").write_text("\n".join(dependencies))
    return python.parent


def files(wheel: Path) -> set[str]:
    """The names of all files in a wheel that are not its metadata."""
    return {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}


@pytest.mark.parametrize("built", ["wheel", "sdist_wheel"])
def test_wheel_holds_every_file(built: str, request: pytest.FixtureRequest) -> None:
    expected = {
        str(prefix / file.relative_to(folder))
        for prefix, folder in (
            (Path("percept"), ROOT / "service" / "percept"),
            (Path("percept_models"), ROOT / "models" / "percept_models"),
            (Path("percept/repository"), ROOT / "models" / "repository"),
        )
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert files(request.getfixturevalue(built)) == expected


@pytest.mark.parametrize("environment", ["checkout", "wheel"])
def test_users_modules_with_common_names_are_exported(
    environment: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = Path(sys.executable).parent if environment == "checkout" else request.getfixturevalue("fresh_bin")
    for source in SOURCES:
        package = tmp_path / source.partition(".")[0]
        package.mkdir()
        (package / "net.py").write_text(NETWORK)
    options = ["--weights", "none", "--size", "32", "--out", "bundles"]
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    commands = [
        [str(folder / "percept"), "export", source, "--name", source.partition(".")[0], *options] for source in SOURCES
    ]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=pipe, text=True) for command in commands]
    errors = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], "\n".join(errors)
    exported = {file.parent.parent.name for file in tmp_path.glob("bundles/*/1/manifest.json")}
    assert exported == {"models", "service", "tests"}


def test_fresh_environment_imports_the_wheel(fresh_bin: Path) -> None:
    code = "import percept, percept_models; print(percept.__file__, percept_models.__file__)"
    command = [str(fresh_bin / "python"), "-P", "-c", code]
    found = subprocess.run(command, cwd=fresh_bin, check=True, capture_output=True, text=True).stdout.split()
    assert all(Path(file).is_relative_to(fresh_bin.parent) for file in found)


def test_wheel_serves_the_built_in_bundles(fresh_bin: Path, start: Callable[..., Server]) -> None:
    server = start(python=fresh_bin / "python")
    models = {model["name"] for model in server.client.get("/models").json()["models"]}
    assert models == {folder.name for folder in (ROOT / "models" / "repository").iterdir()}
    answer = server.client.post(
        "/predict?model=cifar10", content=encode_photo(draw_marker((64, 48), (20, 20), 9), "JPEG")
    )
    assert answer.status_code == 200
    assert len(answer.json()["predictions"]) == 5
