"""What is installed is what is here: every module and every file that a module reads."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


@pytest.mark.parametrize("house", ["service", "models"])
def test_every_package_and_every_data_file_is_declared(house: str) -> None:
    files = [f for f in (ROOT / house).rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    packages = {".".join(f.parent.relative_to(ROOT).parts) for f in files if f.suffix == ".py"}
    assert packages == {name for name in SETUP["packages"] if name.split(".")[0] == house}
    declared = {f for pattern in SETUP["package-data"][house] for f in (ROOT / house).glob(pattern)}
    assert {f for f in files if f.suffix != ".py"} <= declared
