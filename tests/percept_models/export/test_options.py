"""The options of `percept export`: each reaches the manifest, and every guess is printed."""

import json
from pathlib import Path

import pytest

from percept.bundle.integrity import read_manifest
from percept_models.export.options import parse_options
from tests.percept_models.export.conftest import Export
from tests.percept_models.export.factories import MODULE


def test_every_guess_is_printed_with_its_option(export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(f"{MODULE}:classifier") == 0
    printed = capsys.readouterr().out
    for guess in ("--resize", "--channels", "--mean", "--std", "--labels", "--layers", "--cam-layer", "--activation"):
        assert f"guessed: {guess}" in printed
    assert "guessed: --size" not in printed
    assert "stage2 gradients" in printed
    manifest = read_manifest(export.folder())
    assert manifest.labels == tuple(f"class {k}" for k in range(5))
    assert [layer.name for layer in manifest.layers] == ["image", "stem.1", "stage1", "stage2"]
    assert manifest.cam_layer == "stage2"
    assert manifest.provenance.source == f"{MODULE}:classifier"


def test_given_options_replace_guesses(tmp_path: Path, export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({str(k): name for k, name in enumerate("abcba")}))
    options = (
        *("--version", "7", "--labels", str(labels), "--license", "MIT", "--activation", "sigmoid"),
        *("--layers", "stem", "--cam-layer", "stage1", "--channels", "bgr", "--crop", "40"),
        *("--mean", "0.5", "--std", "0.5,0.25,1", "--interpolation", "bicubic"),
    )
    assert export(f"{MODULE}:classifier", *options) == 0
    assert "guessed" not in capsys.readouterr().out
    manifest = read_manifest(export.folder(version=7))
    preprocessing = manifest.preprocessing
    assert manifest.labels == ("a (0)", "b (1)", "c", "b (3)", "a (4)")
    assert ([layer.name for layer in manifest.layers], manifest.cam_layer) == (["image", "stem", "stage1"], "stage1")
    assert (preprocessing.mean, preprocessing.std) == ((127.5,) * 3, (127.5, 63.75, 255.0))
    assert preprocessing.channels == "BGR"
    assert (preprocessing.resize, preprocessing.short_side, preprocessing.interpolation) == ("crop", 40, "bicubic")
    assert (manifest.activation, manifest.provenance.license) == ("sigmoid", "MIT")


def test_mean_and_std_beyond_one_are_in_units_of_bytes(tmp_path: Path) -> None:
    """Caffe's networks state them so."""
    options = parse_options(["a:b", "--name", "c", "--mean", "104,117,123", "--std", "1"], tmp_path)
    assert options.preprocessing == {"mean": (104, 117, 123), "std": (1,)}


def test_resize_size_and_fill_become_pixels_and_a_colour(tmp_path: Path) -> None:
    def given(*options: str) -> dict[str, object]:
        return dict(parse_options(["a:b", "--name", "c", *options], tmp_path).preprocessing)

    assert given("--resize", "pad", "--fill", "1,2,255") == {"resize": "pad", "fill": (1, 2, 255)}
    assert given("--resize-size", "256") == {"resize_size": (256, 256)}
    assert given("--resize-size", "240x320") == {"resize_size": (240, 320)}
    assert given("--resize-size", "none") == {"resize_size": None}


@pytest.mark.parametrize("colour", ["red", "1,2", "1,2,256", "-1,0,0"])
def test_invalid_fill_is_refused_with_its_form(tmp_path: Path, colour: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(["a:b", "--name", "c", f"--fill={colour}"], tmp_path)
    assert "R,G,B" in capsys.readouterr().err


def test_out_replaces_the_default_folder(tmp_path: Path) -> None:
    assert parse_options(["a:b", "--name", "c"], tmp_path).out == tmp_path
    assert parse_options(["a:b", "--name", "c", "--out", "d"], tmp_path).out == Path("d")


def test_help_names_the_default_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--help"], tmp_path / "100%")
    printed = "".join(capsys.readouterr().out.split())
    assert "PERCEPT_MODELS" in printed
    assert str(tmp_path / "100%") in printed
