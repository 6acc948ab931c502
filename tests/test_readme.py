"""The README is true: its commands run, its tables name everything there is."""

import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from percept.api.cam_params import CamQuery
from percept.api.problems import PROBLEMS
from percept.api.routes.features import FeaturesQuery
from percept.api.routes.predict import PredictQuery
from percept.bundle.manifest import read
from percept.explain.methods import METHODS
from percept.imaging.overlay import COLORMAPS
from percept.settings import BUILT_IN, Settings, Telemetry

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def test_its_calls_work(start, tmp_path: Path, shared: Path) -> None:
    names = (shared / "data" / "clothing" / "test.txt").read_text().split()
    photo = shared / "data" / "clothing" / "images" / f"{names[0]}.jpg"
    (tmp_path / "photo.jpg").write_bytes(photo.read_bytes())
    address = start().client.base_url.netloc.decode()
    block = re.search(r"<!-- readme: run -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert block
    calls = block[1].strip().splitlines()
    assert len(calls) == 4
    for call in calls:
        command = call.replace("localhost:8000", address).replace("curl", "curl --fail --silent --show-error")
        subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True)
    with Image.open(photo) as image:
        size = image.size
    for name in ("mask.png", "heatmap.jpg"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size == size
    with Image.open(tmp_path / "features.png") as picture:
        assert picture.format == "PNG"


def test_its_zip_holds_the_files_of_its_table(start, tmp_path: Path, shared: Path) -> None:
    name = (shared / "data" / "clothing" / "test.txt").read_text().split()[0]
    (tmp_path / "photo.jpg").write_bytes((shared / "data" / "clothing" / "images" / f"{name}.jpg").read_bytes())
    call = next(line for line in README.splitlines() if line.startswith("curl") and line.endswith("-o cam.zip"))
    command = call.replace("localhost:8000", start().client.base_url.netloc.decode()).replace("curl", "curl --fail")
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True)
    with ZipFile(tmp_path / "cam.zip") as archive:
        found = archive.namelist()
    table = README[README.index("| file | |\n|---|---|\n| `prediction.json`") :].split("\n\n")[0]
    assert found == [file for file in re.findall(r"^\| `([\w.]+)`", table, re.MULTILINE) if file != "sheet.jpg"]


def test_its_triton_client_works(start, tmp_path: Path, shared: Path) -> None:
    name = (shared / "data" / "clothing" / "test.txt").read_text().split()[0]
    (tmp_path / "photo.jpg").write_bytes((shared / "data" / "clothing" / "images" / f"{name}.jpg").read_bytes())
    block = re.search(r"<!-- readme: triton -->\n```python\n(.*?)```", README, re.DOTALL)
    assert block
    code = block[1].replace("localhost:8000", start().client.base_url.netloc.decode())
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.strip().endswith("(1, 224, 8, 8) (1, 8, 8)")


@pytest.mark.parametrize("query", [CamQuery, FeaturesQuery, PredictQuery])
def test_every_parameter_is_named(query) -> None:
    named = " ".join(re.findall(r"`[^`\n]+`", README))
    assert {name for name in query.model_fields if not re.search(rf"\b{name}\b", named)} == set()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name: str) -> None:
    assert f"`PERCEPT_{name.upper()}`" in README


@pytest.mark.parametrize("name", Telemetry.model_fields)
def test_every_variable_of_open_telemetry_that_is_read_is_named(name: str) -> None:
    assert f"`OTEL_{name.upper()}`" in README


@pytest.mark.parametrize("kind", PROBLEMS.values(), ids=lambda kind: kind.code)
def test_every_problem_is_described_with_its_status(kind) -> None:
    assert re.search(rf"^\| [\d, ]*{kind.status}[\d, ]* \|.*`{kind.code}`", README, re.MULTILINE)


@pytest.mark.parametrize("name", [*METHODS, *COLORMAPS])
def test_every_method_and_colour_map_is_named(name: str) -> None:
    assert f"`{name}`" in README


@pytest.mark.parametrize("name", ["cifar10", "clothing"])
def test_the_figures_of_the_built_in_models_are_those_of_their_manifests(name: str) -> None:
    row = re.search(rf"^\| `{name}` \|(.*)$", README, re.MULTILINE)
    assert row
    for value in read(BUILT_IN / name / "1").provenance.metrics.values():
        assert f"{value:.4f}" in row[1]
