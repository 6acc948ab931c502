"""`percept visualize`: what it writes into a bundle, and that a failure changes nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

from percept.bundle.filters import cut_tiles, load_picture
from percept.bundle.integrity import read_manifest
from percept.bundle.manifest import Manifest
from percept.errors import BrokenImage, BundleError, NotAnImage
from percept.server.cli import main
from percept_models.export.convert import convert
from percept_models.export.options import ExportOptions
from percept_models.verify.bundle import verify_bundle
from percept_models.verify.table import format_checks
from percept_models.visualize import command
from percept_models.visualize.command import visualize
from percept_models.visualize.options import VisualizeOptions
from tests.percept_models.networks import digests, export_bundle
from tests.percept_models.visualize.conftest import LAYERS, QUICK, ignore
from tests.photos import draw_marker, encode_photo


def kinds(manifest: Manifest) -> list[tuple[str, str | None]]:
    """The kind and the layer of every picture."""
    return [(picture.kind, picture.layer) for picture in manifest.filters]


def test_every_picture_is_drawn_and_the_bundle_passes(visualized: Path) -> None:
    """Kernels once, maxima and an inversion by layer, and the photo as the image's own; nothing else is changed."""
    manifest = read_manifest(visualized)
    assert set(kinds(manifest)) == {
        ("kernels", None),
        ("inversion", "image"),
        *((kind, layer) for kind in ("maxima", "inversion") for layer in ("stem", "stage1", "stage2")),
    }
    for picture in manifest.filters:
        assert len(cut_tiles(load_picture(visualized, picture), picture)) == max(1, len(picture.channels))
    assert {file.name for file in visualized.iterdir()} == {*manifest.files, "manifest.json"}
    checks = verify_bundle(visualized)
    assert all(check.passed for check in checks), format_checks(checks)


def test_golden_input_is_the_default_photo(visualized: Path) -> None:
    (photo,) = (picture for picture in read_manifest(visualized).filters if picture.layer == "image")
    (tile,) = cut_tiles(load_picture(visualized, photo), photo)
    with np.load(visualized / "golden.npz") as golden:
        np.testing.assert_array_equal(np.asarray(tile), golden["pixels"][0])


def test_pictures_are_reproducible_byte_for_byte(visualized: Path, tmp_path: Path) -> None:
    """And drawing them again changes nothing."""
    folder = export_bundle(tmp_path, layers=LAYERS)
    for _ in range(2):
        visualize(folder, QUICK, ignore)
        assert digests(folder) == digests(visualized)


def test_new_pictures_replace_old_ones(tmp_path: Path) -> None:
    """Of another photo and fewer layers; files of an aborted run are removed, graphs and weights stay."""
    folder = export_bundle(tmp_path, layers=LAYERS)
    before = {name: sha for name, sha in read_manifest(folder).files.items() if not name.endswith(".png")}
    visualize(folder, QUICK, ignore)
    (folder / "maxima.stem.0badcafe.png").write_text("left by an aborted run")
    (tmp_path / "photo.png").write_bytes(encode_photo(draw_marker((60, 90), (20, 30), 14)))
    visualize(folder, VisualizeOptions(("stage1",), 2, 5, tmp_path / "photo.png"), ignore)
    manifest = read_manifest(folder)
    expected = [("kernels", None), ("inversion", "image"), ("maxima", "stage1"), ("inversion", "stage1")]
    assert kinds(manifest) == expected
    assert {file.name for file in folder.iterdir()} == {*manifest.files, "manifest.json"}
    assert before.items() <= manifest.files.items()


def test_failure_leaves_the_bundle_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export_bundle(tmp_path, layers=LAYERS)
    visualize(folder, VisualizeOptions(("stem",), 2, 3), ignore)
    before = digests(folder)

    def fail(_file: Path) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(command, "digest", fail)
    with pytest.raises(OSError, match="space"):
        visualize(folder, VisualizeOptions(("stage2",), 2, 3), ignore)
    assert digests(folder) == before


def test_bundle_without_pictures_gets_its_kernels(tmp_path: Path) -> None:
    """Bundles were once exported without any."""
    folder = export_bundle(tmp_path, layers=LAYERS)
    (exported,) = read_manifest(folder).filters
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["filters"]
    del manifest["files"][exported.file]
    (folder / exported.file).unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert read_manifest(folder).filters == ()
    visualize(folder, VisualizeOptions(("stem",), 1, 2), ignore)
    assert read_manifest(folder).filters[0] == exported


def test_unknown_layer_is_refused(visualized: Path) -> None:
    with pytest.raises(BundleError, match=r"no layer 'stage9' to visualize; there are stem"):
        visualize(visualized, VisualizeOptions(("stage9",)), ignore)


def test_invalid_photo_is_refused(tmp_path: Path, visualized: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text, a truncated image, and a file that does not exist."""
    (tmp_path / "text").write_text("text")
    with pytest.raises(NotAnImage):
        visualize(visualized, VisualizeOptions(photo=tmp_path / "text"), ignore)
    (tmp_path / "truncated").write_bytes(encode_photo(draw_marker((60, 90), (20, 30), 14))[:90])
    with pytest.raises(BrokenImage):
        visualize(visualized, VisualizeOptions(photo=tmp_path / "truncated"), ignore)
    assert main(["visualize", str(visualized), "--photo", str(tmp_path / "absent")]) == 1
    assert "absent" in capsys.readouterr().err


def test_steps_must_be_positive(visualized: Path) -> None:
    with pytest.raises(SystemExit):
        main(["visualize", str(visualized), "--steps", "0"])


def test_bundle_in_float16_is_refused(tmp_path: Path) -> None:
    """It keeps its kernels."""
    folder = export_bundle(tmp_path, layers=LAYERS)
    half = convert(ExportOptions(str(folder), "half", tmp_path, precision="float16"), ignore)
    assert kinds(read_manifest(half)) == [("kernels", None)]
    with pytest.raises(BundleError, match="float16"):
        visualize(half, QUICK, ignore)


def test_bundle_that_does_not_tap_the_image_is_refused(tmp_path: Path) -> None:
    """Its gradients end before the pixels."""
    folder = export_bundle(tmp_path, layers=("stem", "stage2"))
    with pytest.raises(BundleError, match="export it again"):
        visualize(folder, QUICK, ignore)


def test_command_prints_a_line_for_each_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export_bundle(tmp_path, layers=LAYERS)
    assert main(["visualize", str(folder), "--layers", "stem", "--channels", "2", "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "golden input" in printed
    assert "maxima         stem: 2 channels at 32 x 24" in printed
