"""What layers look for and keep: images found by gradients, and how they come into a bundle."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from percept.bundle.filters import load, tiles
from percept.bundle.manifest import Layer, Preprocessing, ReceptiveField, digest, read
from percept.errors import BrokenImage, BundleError, NotAnImage
from percept.settings import BUILT_IN
from percept_models.commands import main
from percept_models.export.convert import convert
from percept_models.export.draft import Wish
from percept_models.verify.checks import table, verify
from percept_models.visualize import command as module
from percept_models.visualize.command import Plan, canvas_size, visualize
from tests.percept_models.networks import HOW, PYRAMID, Pyramid, bundle
from tests.photos import encoded, marked

LAYERS = ("image", "stem", "stage1", "stage2")
QUICK = Plan(channels=4, steps=12)


def quiet(_line: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with drawings that took few steps; not to be changed."""
    folder = bundle(tmp_path_factory.mktemp("drawn"), layers=LAYERS)
    visualize(folder, QUICK, quiet)
    return folder


def test_everything_is_drawn_and_the_bundle_still_verifies(drawn: Path) -> None:
    """Kernels once, maxima and an inversion by layer, the photo as the image's own; no other file is touched."""
    manifest = read(drawn)
    assert {(one.kind, one.layer) for one in manifest.filters} == {
        ("kernels", None),
        ("inversion", "image"),
        *((kind, layer) for kind in ("maxima", "inversion") for layer in ("stem", "stage1", "stage2")),
    }
    for one in manifest.filters:
        shown = tiles(load(drawn, one), one)
        assert len(shown) == max(1, len(one.channels))
    assert {file.name for file in drawn.iterdir()} == {*manifest.files, "manifest.json"}
    checks = verify(drawn)
    assert all(check.passed for check in checks), table(checks)
    with np.load(drawn / "golden.npz") as golden:
        (photo,) = (one for one in manifest.filters if one.layer == "image")
        np.testing.assert_array_equal(np.asarray(tiles(load(drawn, photo), photo)[0]), golden["pixels"][0])


def test_the_same_bundle_gives_the_same_pictures(drawn: Path, tmp_path: Path) -> None:
    """Byte for byte, manifest included; and doing it again changes nothing."""
    folder = bundle(tmp_path, layers=LAYERS)
    for _ in range(2):
        visualize(folder, QUICK, quiet)
        assert {f.name: digest(f) for f in folder.iterdir()} == {f.name: digest(f) for f in drawn.iterdir()}


def test_older_drawings_give_way_to_new_ones(tmp_path: Path) -> None:
    """Of another photo and fewer layers: what is named no longer is removed, weights and graphs stay as they were."""
    folder = bundle(tmp_path, layers=LAYERS)
    before = {name: sha for name, sha in read(folder).files.items() if not name.endswith(".png")}
    visualize(folder, QUICK, quiet)
    (folder / "maxima.stem.0badcafe.png").write_text("left by a run that was killed")
    (tmp_path / "photo.png").write_bytes(encoded(marked((60, 90), (20, 30), 14)))
    visualize(folder, Plan(("stage1",), 2, 5, tmp_path / "photo.png"), quiet)
    manifest = read(folder)
    assert [(one.kind, one.layer) for one in manifest.filters] == [
        ("kernels", None),
        ("inversion", "image"),
        ("maxima", "stage1"),
        ("inversion", "stage1"),
    ]
    assert {file.name for file in folder.iterdir()} == {*manifest.files, "manifest.json"}
    assert before.items() <= manifest.files.items()


def test_a_failure_leaves_the_bundle_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, manifest and older drawings, whenever it comes."""
    folder = bundle(tmp_path, layers=LAYERS)
    visualize(folder, Plan(("stem",), 2, 3), quiet)
    before = {f.name: digest(f) for f in folder.iterdir()}

    def full(_file: Path) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(module, "digest", full)
    with pytest.raises(OSError, match="space"):
        visualize(folder, Plan(("stage2",), 2, 3), quiet)
    assert {f.name: digest(f) for f in folder.iterdir()} == before


def test_a_bundle_without_drawings_gets_its_kernels_too(tmp_path: Path) -> None:
    """One that was exported before there were any."""
    folder = bundle(tmp_path, layers=LAYERS)
    said = json.loads((folder / "manifest.json").read_text())
    (kernels,) = said.pop("filters")
    said["files"].pop(kernels["file"])
    (folder / kernels["file"]).unlink()
    (folder / "manifest.json").write_text(json.dumps(said))
    assert read(folder).filters == ()
    visualize(folder, Plan(("stem",), 1, 2), quiet)
    assert read(folder).filters[0].model_dump() == read(folder).filters[0].model_validate(kernels).model_dump()


def test_what_cannot_be_visualized_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fewer bits, no tapped image, an unknown layer, a photo that is none, a count of nothing."""
    folder = bundle(tmp_path, layers=LAYERS)
    with pytest.raises(BundleError, match=r"no layer 'stage9' to visualize; there are stem"):
        visualize(folder, Plan(("stage9",)), quiet)
    (tmp_path / "text").write_text("text")
    with pytest.raises(NotAnImage):
        visualize(folder, Plan(photo=tmp_path / "text"), quiet)
    (tmp_path / "cut").write_bytes(encoded(marked((60, 90), (20, 30), 14))[:90])
    with pytest.raises(BrokenImage):
        visualize(folder, Plan(photo=tmp_path / "cut"), quiet)
    assert main(["visualize", str(folder), "--photo", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["visualize", str(folder), "--steps", "0"])
    convert(Wish(str(folder), "half", out=tmp_path, precision="float16"), quiet)
    assert [one.kind for one in read(tmp_path / "half" / "1").filters] == ["kernels"]
    with pytest.raises(BundleError, match="float16"):
        visualize(tmp_path / "half" / "1", QUICK, quiet)


def test_a_bundle_that_does_not_tap_the_image_is_refused(tmp_path: Path) -> None:
    """Its gradients end before the pixels."""
    folder = bundle(tmp_path, layers=("stem", "stage2"))
    with pytest.raises(BundleError, match="export it again"):
        visualize(folder, QUICK, quiet)


def test_a_layer_without_gradients_is_left_out(tmp_path: Path) -> None:
    """The operator on the way is named, the layers before it are drawn."""
    from tests.percept_models.networks import Strange

    lines: list[str] = []
    layers = ("image", "stage1", "stage2")
    folder = bundle(tmp_path, Strange(), labels=("a", "b"), layers=layers, cam_layer="stage2")
    visualize(folder, QUICK, lines.append)
    assert {one.layer for one in read(folder).filters} == {None, "image", "stage1"}
    assert any("stage2" in line and "Sin" in line for line in lines)


def test_the_command_says_what_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each picture, and that the photo was the golden one."""
    folder = bundle(tmp_path, layers=LAYERS)
    assert main(["visualize", str(folder), "--layers", "stem", "--channels", "2", "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "golden picture" in printed
    assert "maxima         stem: 2 channels at 32 x 24" in printed


FIELDS = [
    ((224, 224), 7, (64, 64)),
    ((224, 224), 491, (128, 128)),
    ((384, 256), 491, (128, 96)),
    ((384, 256), None, (128, 96)),
    ((32, 32), 7, (32, 32)),
    ((96, 64), 40, (96, 64)),
]


@pytest.mark.parametrize(("whole", "reach", "expected"), FIELDS)
def test_a_picture_is_as_large_as_the_layer_can_see(
    whole: tuple[int, int], reach: int | None, expected: tuple[int, int]
) -> None:
    """Twice that, within bounds, in the network's shape."""
    field = ReceptiveField(size=(reach, reach), start=(0.5, 0.5)) if reach else None
    layer = Layer(name="a", shape=(1, 4, 4), stride=(2, 2), receptive_field=field, unavailable="no need")
    assert canvas_size(layer, whole) == expected


def test_a_large_network_is_asked_about_small_pictures_where_it_takes_them(tmp_path: Path) -> None:
    """Its stages are; the pyramid, whose interpolation knows one size, is asked about whole ones."""
    how = Preprocessing(height=160, width=192, mean=HOW.mean, std=HOW.std)
    layers = ("image", *PYRAMID["layers"])
    folder = bundle(tmp_path, Pyramid(), **{**PYRAMID, "layers": layers, "preprocessing": how})
    visualize(folder, Plan(channels=2, steps=2), quiet)
    shown = {one.layer: one.tile for one in read(folder).filters if one.kind == "maxima"}
    assert shown["stage1"] == (64, 64)
    assert max(shown["merge"]) <= 128
    rebuilt = next(one for one in read(folder).filters if (one.kind, one.layer) == ("inversion", "merge"))
    assert rebuilt.tile == (133, 160)


@pytest.mark.prove
def test_the_drawings_of_a_built_in_bundle_can_be_made_again(tmp_path: Path) -> None:
    """By the command as it is: the same channels, as excited as the manifest says."""
    folder = tmp_path / "cifar10" / "1"
    shutil.copytree(BUILT_IN / "cifar10" / "1", folder)
    visualize(folder, say=quiet)
    for old, new in zip(read(BUILT_IN / "cifar10" / "1").filters, read(folder).filters, strict=True):
        assert (old.kind, old.layer, old.channels, old.tile) == (new.kind, new.layer, new.channels, new.tile)
        assert new.scores == pytest.approx(old.scores, rel=0.2)


@pytest.mark.prove
def test_a_trained_network_keeps_a_photo_and_looks_for_more_than_noise(tmp_path: Path, shared: Path) -> None:
    """MobileNetV2: an early layer gives the cat back, the last one does not; every channel is found."""
    said = {"resize": "crop", "short_side": 256, "mean": (127.5,) * 3, "std": (127.5,) * 3}
    file = shared / "models" / "tf2_mobilenet_v2_1.0_224.onnx"
    folder = convert(Wish(str(file), "mobilenet", out=tmp_path, preprocessing=said), quiet)
    cat = shared / "images" / "coral_cat.bmp"
    visualize(folder, Plan(("add_46", "clip_271"), 4, 128, cat), quiet)
    shown = {(one.kind, one.layer): one for one in read(folder).filters}
    photo, early, late = (
        np.asarray(tiles(load(folder, one), one)[0]).ravel()
        for one in (shown["inversion", layer] for layer in ("image", "add_46", "clip_271"))
    )
    assert np.corrcoef(photo, early)[0, 1] > 0.9
    assert np.corrcoef(photo, late)[0, 1] < 0.8
    for layer in ("add_46", "clip_271"):
        found = shown["maxima", layer]
        assert all(score > 3 * abs(noise) for score, noise in zip(found.scores, found.noise, strict=True))
