"""`percept check`: the classes of photos under the likely preprocessings, as a user reads them."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from percept.server.cli import main
from percept_models.check.network import Network
from percept_models.check.normalizations import NORMALIZATIONS
from percept_models.check.table import best_classes
from percept_models.export.options import parse_preprocessing
from tests.conftest import ROOT
from tests.percept_models.export.factories import MODULE


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Four photos of one colour each, with dark and light parts."""
    files = []
    for name, colour in {
        "red": (220, 40, 30),
        "green": (30, 200, 60),
        "blue": (40, 30, 230),
        "sky": (90, 140, 250),
    }.items():
        pixels = np.linspace(0.6, 1, 60 * 40).reshape(40, 60, 1) * colour
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.png")
        files.append(str(tmp_path / f"{name}.png"))
    return files


def rows(text: str) -> list[list[str]]:
    """The cells of the lines of tables."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if "squeeze" in line or "crop" in line]


def test_right_row_names_what_is_in_the_photos(
    colours: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(colours), *photos, "--labels", str(colours.with_name("labels.txt"))]) == 0
    printed = capsys.readouterr().out
    tables = printed.split("\n\n")
    assert len(tables) == 5
    for photo, table in zip(photos, tables[:4], strict=True):
        assert photo in table
        colour = "blue" if "sky" in photo else Path(photo).stem
        (right,) = [cells for cells in rows(table) if cells[:2] == ["0..1", "squeeze"]]
        assert right[2].startswith(f"{colour} ")
    (own,) = [cells for cells in rows(tables[0]) if cells[0] == "*"]
    assert own[1:] == ["0..255", "squeeze", "blue 67%", "green 24%", "red 9%"]  # the biases: every colour is clipped


def test_options_and_contrast_of_each_row_are_listed(
    colours: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(colours), *photos]) == 0
    table = {tuple(cells[-4:-2]): cells[-2:] for cells in rows(capsys.readouterr().out.split("\n\n")[-1])}
    contrasts = {name: float(table[name, "squeeze"][0]) for name in NORMALIZATIONS["RGB"]}
    assert contrasts["0..255"] < 0.1 < contrasts["0..1"]
    for name, options in NORMALIZATIONS["RGB"].items():
        assert parse_preprocessing(table[name, "squeeze"][1].split()) == parse_preprocessing(options.split())
        assert table[name, "crop"][1] == f"{options} --crop 37"


def test_contrast_needs_four_photos(colours: Path, photos: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(colours), *photos[:3], "--top", "1"]) == 0
    printed = capsys.readouterr().out
    assert "contrast:" not in printed
    assert "1st" in printed
    assert "2nd" not in printed


def test_torch_network_and_bundle_are_checked(photos: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{MODULE}:classifier", photos[0], "--size", "32x24"]) == 0
    own = [cells for cells in rows(capsys.readouterr().out) if cells[0] == "*"]
    assert own[0][1:3] == ["0..1, ImageNet", "squeeze"]
    bundle = ROOT / "models" / "repository" / "cifar10" / "1"
    assert main(["check", str(bundle), str(ROOT / "docs" / "images" / "cat.jpg")]) == 0
    assert "cat " in next(cells for cells in rows(capsys.readouterr().out) if cells[0] == "*")[3]


def test_masks_are_shown_by_the_shares_of_their_classes() -> None:
    logits = np.zeros((3, 2, 4), np.float32)
    logits[2, 0] = logits[1, 1, 0] = 1
    network = Network(None, None, "softmax", ("a", "b", "c" * 30))  # type: ignore[arg-type]
    assert best_classes(network, logits, 3) == ["c" * 23 + "… 50%", "a 38%", "b 12%"]
    assert best_classes(network, logits * np.nan, 3) == ["not finite"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["absent.onnx", "PHOTO"], "there is no file absent.onnx"),
        (["NETWORK", "absent.jpg"], "there is no file absent.jpg"),
        (["NETWORK", "NETWORK"], "are not an image"),
        (["NETWORK", "PHOTO", "--labels", "absent.txt"], "there is no file absent.txt"),
        (["NETWORK", "PHOTO", "--fill", "1,2,3"], "--resize pad"),
    ],
)
def test_error_is_one_line(
    arguments: list[str], reason: str, colours: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"NETWORK": str(colours), "PHOTO": photos[0]}
    assert main(["check", *(names.get(argument, argument) for argument in arguments)]) == 1
    assert reason in capsys.readouterr().err


@pytest.mark.prove
@pytest.mark.parametrize(
    ("file", "row"),
    [
        ("mobilenet_v1_0.25_128.onnx", "-1..1"),
        ("tf2_mobilenet_v2_1.0_224.onnx", "-1..1"),
        ("squeezenet1.0_deepcompression_227.onnx", "BGR - mean, Caffe"),
    ],
)
def test_pretrained_files_name_a_cat_in_the_right_row_only(
    shared: Path, file: str, row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    models = shared / "models"
    labels = str(models / "imagenet-simple-labels.json")
    assert main(["check", str(models / file), str(shared / "images" / "coral_cat.bmp"), "--labels", labels]) == 0
    found = {cells[-5]: cells[-3] for cells in rows(capsys.readouterr().out.split("\n\n")[0]) if "squeeze" in cells}
    assert re.search("cat|Mau|lynx", found[row])
    if row != "BGR - mean, Caffe":
        assert not re.search("cat|Mau|lynx", found["0..255"])
