"""`percept evaluate` measures over a folder what the service measures for each of its photos."""

import json
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from percept.errors import (
    BadParameter,
    BundleError,
    GradientsUnavailable,
    MethodUnavailable,
    PerceptError,
    UnknownLayer,
)
from percept.evaluation import command
from percept.evaluation.baselines import BASELINES
from percept.evaluation.command import evaluate
from percept.explain.methods.table import METHODS
from tests.bundles import create_bundle, read_manifest_json, write_manifest
from tests.photos import draw_marker, encode_photo

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
SIZE = (150, 110)
PLACES = {"one.png": ((40, 30), RED), "two.jpg": ((100, 70), BLUE), "deep/er/three.webp": ((60, 80), RED)}
QUICK = [name for name, method in METHODS.items() if method.needs != "image" and not method.needs_varying_gradients]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three photos of a marker, and beside it one of masks: 255 on the marker, 0 elsewhere."""
    folder = tmp_path / "photos"
    for name, (centre, colour) in PLACES.items():
        photo, mask = folder / name, (tmp_path / "masks" / name).with_suffix(".png")
        for file in (photo, mask):
            file.parent.mkdir(parents=True, exist_ok=True)
        kind = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[photo.suffix]
        photo.write_bytes(encode_photo(draw_marker(SIZE, centre, 16, colour), kind, quality=95))
        Image.fromarray(inside(centre).astype(np.uint8) * 255).save(mask)
    return folder


def inside(centre: tuple[int, int]) -> np.ndarray:
    """The pixels of a marker."""
    y, x = np.indices(SIZE[::-1])
    return (abs(x + 0.5 - centre[0]) < 16) & (abs(y + 0.5 - centre[1]) < 16)


@pytest.fixture
def run(bundles: Path, photos: Path, tmp_path: Path) -> Callable[..., dict]:
    """Evaluate a marker bundle on the photos and return table.json."""

    def run(*more: str, model: str = "classification-squeeze") -> dict:
        out = tmp_path / "out"
        assert evaluate([str(bundles / model / "1"), str(photos), "--out", str(out), *more]) == 0
        return json.loads((out / "table.json").read_text())

    return run


def by_method(table: dict) -> dict[str, dict]:
    return {row["method"]: row for row in table["rows"]}


@pytest.mark.parametrize("model", ["classification-squeeze", "segmentation-crop"])
def test_numbers_equal_those_of_the_service(run, photos: Path, client: httpx.Client, model: str) -> None:
    table = by_method(run("--methods", "gradcam,hirescam,eigencam", model=model))
    for method in ("gradcam", "hirescam", "eigencam"):
        url = f"/cam?model={model}&method={method}&format=json&faithfulness=true"
        answers = [client.post(url, content=(photos / name).read_bytes()).json()["faithfulness"] for name in PLACES]
        values = {
            "average_drop": [100 * one["average_drop"] for one in answers],
            "increase": [100 * one["increase"] for one in answers],
            "deletion": [one["deletion"] for one in answers],
            "insertion": [one["insertion"] for one in answers],
            "difference": [one["insertion"] - one["deletion"] for one in answers],
        }
        for name, numbers in values.items():
            found = table[method][name]
            assert found["value"] == pytest.approx(statistics.mean(numbers), rel=1e-5), name
            assert found["error"] == pytest.approx(statistics.stdev(numbers) / 3**0.5, rel=1e-4), name
            assert found["n"] == 3
        assert 0 < table[method]["milliseconds"]["value"] < 1000


def test_command_writes_two_tables_and_a_sheet(run, tmp_path: Path, capsys) -> None:
    data = run()
    printed = capsys.readouterr()
    text = (tmp_path / "out" / "table.md").read_text()
    table = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    assert printed.out.startswith(table + "\n")
    assert text.startswith("# classification-squeeze/1 at colour, 3 photos\n")
    assert len(table.splitlines()) == 2 + len(data["rows"])
    names = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert names == [f"*{row['method']}*" if row["baseline"] else row["method"] for row in data["rows"]]
    assert len({len(line) for line in table.splitlines()}) == 1
    progress = [line for line in printed.err.splitlines() if re.match(r"\d/3  ", line)]
    assert [line.split()[1] for line in progress] == sorted(PLACES)
    assert re.fullmatch(r"2/3  one.png  red 0\.\d\d  \d+\.\d s", progress[1])
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        columns, cell = len(names) + 1, 340  # tiles of 320 and a gap of 20
        assert sheet.width == columns * cell + 20
        assert 3 * 235 < sheet.height < 3 * 320


def test_sheet_shows_each_photo_beside_its_maps(run, tmp_path: Path, photos: Path) -> None:
    names = [row["method"] for row in run("--methods", "hirescam")["rows"]]
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    row = pixels[: pixels.shape[0] // 3]  # deep/er/three.webp: red at 60, 80 of 150 x 110
    tops = np.flatnonzero((row[:, 25:335] > 60).all(2).mean(1) > 0.9)
    scale = 320 / 150
    y, x = tops.min() + round(80 * scale), 20 + round(60 * scale)
    assert np.abs(row[y, x] - RED).max() < 30
    hot = row[y, x + 340 * (1 + names.index("hirescam"))]
    cold = row[tops.min() + 20, x + 340 * (1 + names.index("hirescam"))]
    plain = row[tops.min() + 20, x]
    assert np.abs(hot - RED).max() > 60
    assert np.abs(cold - plain).max() < 25


def test_methods_locate_the_marker_better_than_baselines(run) -> None:
    table = by_method(run())
    assert set(table) == {*QUICK, *BASELINES}
    assert table["hirescam"]["pointing"] == {"value": 100, "error": 0, "n": 3}
    assert table["hirescam"]["energy"]["value"] > 70
    assert table["random"]["energy"]["value"] < 20
    assert table["hirescam"]["difference"]["value"] > table["random"]["difference"]["value"]
    assert table["hirescam"]["difference"]["value"] > table["centre"]["difference"]["value"]
    assert table["random"]["milliseconds"] is None


def test_best_methods_come_first(run) -> None:
    table = run()["rows"]
    found = [round(row["difference"]["value"], 6) for row in table]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) > 2
    alike = [row["method"] for row in table if row["method"] in ("cam", "gradcam", "hirescam")]  # by theory
    assert alike == ["cam", "gradcam", "hirescam"]


def test_evaluation_is_deterministic(run) -> None:
    first, second = run(), run()
    for table in (first, second):
        for row in table["rows"]:
            row.pop("milliseconds")
    assert first == second


def test_slow_methods_are_left_out_by_default(run, tmp_path: Path, capsys) -> None:
    left = run()["left_out"]
    assert set(left) == {*METHODS} - {*QUICK}
    assert left["rise"].startswith("slow")
    assert "global average" in left["saliency"]
    assert "left out: rise, slow" in capsys.readouterr().err
    assert "Left out: rise, slow" in (tmp_path / "out" / "table.md").read_text()
    assert set(by_method(run("--methods", "rise"))) == {"rise", *BASELINES}
    everything = run("--all")
    assert set(everything["left_out"]) == {"saliency", "smoothgrad"}
    assert {"rise", "occlusion", "scorecam"} < set(by_method(everything))


def test_broken_photos_are_skipped_and_other_files_ignored(run, photos: Path, capsys) -> None:
    clean = by_method(run("--methods", "gradcam"))
    (photos / "broken.jpg").write_bytes((photos / "two.jpg").read_bytes()[:700])
    (photos / "empty.png").write_bytes(b"")
    (photos / "notes.txt").write_text("no photo")
    (photos / ".hidden.png").write_bytes(b"")
    (photos / ".thumbs").mkdir()
    (photos / ".thumbs" / "one.png").write_bytes(b"")
    data = run("--methods", "gradcam")
    assert set(data["skipped"]) == {"broken.jpg", "empty.png"}
    assert "1/5  broken.jpg is skipped: the image cannot be decoded" in capsys.readouterr().err
    assert data["photos"] == 3
    assert by_method(data)["gradcam"]["deletion"] == clean["gradcam"]["deletion"]


def test_masks_and_reports_in_the_folder_are_not_photos(photos: Path, bundles: Path) -> None:
    (photos.parent / "masks").rename(photos / "masks")
    out = photos / "out"
    for _ in range(2):
        model = str(bundles / "classification-squeeze" / "1")
        evaluate([model, str(photos), "--methods", "gradcam", "--out", str(out)])
        data = json.loads((out / "table.json").read_text())
        assert data["photos"] == by_method(data)["gradcam"]["pointing"]["n"] == 3
    assert (out / "sheet.png").is_file()


def test_localization_is_not_measured_without_masks(run, photos: Path, tmp_path: Path) -> None:
    (photos.parent / "masks").rename(photos.parent / "elsewhere")
    row = by_method(run("--methods", "gradcam"))["gradcam"]
    assert (row["pointing"], row["energy"]) == (None, None)
    assert "pointing" not in (tmp_path / "out" / "table.md").read_text().split("\n\n")[1]
    row = by_method(run("--methods", "gradcam", "--masks", str(photos.parent / "elsewhere")))["gradcam"]
    assert row["pointing"]["n"] == 3


def test_unusable_masks_are_reported_and_left_out(run, photos: Path, capsys) -> None:
    masks = photos.parent / "masks"
    Image.new("L", (20, 20), 1).save(masks / "one.png")
    Image.new("RGB", SIZE).save(masks / "two.png")
    row = by_method(run("--methods", "gradcam"))["gradcam"]
    assert (row["pointing"]["n"], row["deletion"]["n"]) == (1, 3)
    printed = capsys.readouterr().err
    assert "one.png is 20 x 20, the photo 150 x 110" in printed
    assert "two.png has 3 channels" in printed
    (masks / "one.png").write_bytes(b"no picture")
    run("--methods", "gradcam")
    assert "one.png is not a mask" in capsys.readouterr().err


def test_masks_of_a_segmenter_hold_class_indices(run, photos: Path) -> None:
    """The value 1 is red and 3 is blue; another class is no object, and 255 is unknown."""
    masks = photos.parent / "masks"
    for name, (centre, colour) in PLACES.items():
        values = np.where(inside(centre), 1 if colour == RED else 3, 0).astype(np.uint8)
        Image.fromarray(values).save((masks / name).with_suffix(".png"))
    row = by_method(run("--methods", "hirescam", model="segmentation-squeeze"))["hirescam"]
    assert row["pointing"] == {"value": 100, "error": 0, "n": 3}
    Image.fromarray(np.where(inside(PLACES["one.png"][0]), 2, 0).astype(np.uint8)).save(masks / "one.png")
    row = by_method(run("--methods", "hirescam", model="segmentation-squeeze"))["hirescam"]
    assert row["pointing"]["n"] == row["energy"]["n"] == 2
    Image.fromarray(np.where(inside(PLACES["two.jpg"][0]), 255, 0).astype(np.uint8)).save(masks / "two.png")
    row = by_method(run("--methods", "hirescam", model="segmentation-squeeze"))["hirescam"]
    assert row["pointing"]["n"] == 1


def test_unknown_pixels_of_a_segmenters_mask_do_not_count(run, photos: Path) -> None:
    for name, (centre, colour) in PLACES.items():
        values = np.where(inside(centre), 1 if colour == RED else 3, 255).astype(np.uint8)
        Image.fromarray(values).save((photos.parent / "masks" / name).with_suffix(".png"))
    row = by_method(run("--methods", "hirescam", model="segmentation-squeeze"))["hirescam"]
    assert row["energy"]["value"] == pytest.approx(100)


BAD = [
    (["--methods", "gradcam,magic"], "classification-squeeze", BadParameter, "no method 'magic'"),
    (["--methods", ","], "classification-squeeze", BadParameter, "no method ''"),
    (["--methods", "cam"], "segmentation-squeeze", MethodUnavailable, "use gradcam"),
    (["--methods", "gradcam"], "no-gradients", GradientsUnavailable, "no rule"),
    (["--layer", "body"], "classification-squeeze", UnknownLayer, "it has colour"),
    (["--layer", "colour+body"], "classification-squeeze", UnknownLayer, "'body'"),
    (["--masks", "/nowhere"], "classification-squeeze", PerceptError, "not a folder of masks"),
    (["--out", "/dev/null/out"], "classification-squeeze", PerceptError, "/dev/null"),
    ([], "absent", BundleError, "manifest"),
]


@pytest.mark.parametrize(("more", "model", "kind", "words"), BAD)
def test_unusable_options_are_rejected(run, more: list[str], model: str, kind, words: str) -> None:
    with pytest.raises(kind, match=words):
        run(*more, model=model)


def test_masks_must_not_lie_among_the_photos(run, photos: Path) -> None:
    with pytest.raises(PerceptError, match="not a folder of masks"):
        run("--masks", str(photos))


def test_folder_without_usable_photos_is_an_error(bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    model = str(bundles / "classification-squeeze" / "1")
    with pytest.raises(PerceptError, match=r"there is no photo in .*\.jpg"):
        evaluate([model, str(tmp_path)])
    with pytest.raises(PerceptError, match="there is no folder"):
        evaluate([model, str(tmp_path / "absent")])
    (tmp_path / "one.png").write_bytes(b"broken")
    with pytest.raises(PerceptError, match=r"every photo of .* is broken"):
        evaluate([model, str(tmp_path), "--out", str(tmp_path / "out")])


def test_bare_logits_are_rejected(photos: Path, tmp_path: Path) -> None:
    folder = create_bundle(tmp_path, "bare")
    write_manifest(folder, read_manifest_json(folder) | {"activation": "none"})
    with pytest.raises(BadParameter, match="bare logits"):
        evaluate([str(folder), str(photos), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("limit", ["0", "-1", "many", "1.5"])
def test_limit_must_be_a_positive_number(run, limit: str, capsys) -> None:
    with pytest.raises(SystemExit):
        run(f"--limit={limit}")
    assert "a whole number of at least 1" in capsys.readouterr().err


def test_fused_layers_are_evaluated(run) -> None:
    fused, one = run("--layer", "colour+colour", "--methods", "gradcam"), run("--methods", "gradcam")
    assert fused["layer"] == "colour+colour"
    assert by_method(fused)["gradcam"]["deletion"] == pytest.approx(by_method(one)["gradcam"]["deletion"])


def test_sheet_has_rows_for_the_first_six_photos(run, photos: Path, tmp_path: Path) -> None:
    heights = []
    for more in range(5):
        (photos / f"more{more}.png").write_bytes((photos / "one.png").read_bytes())
    for count in (1, 5, 6, 8):
        assert run("--methods", "gradcam", "--limit", str(count))["photos"] == count
        with Image.open(tmp_path / "out" / "sheet.png") as sheet:
            heights.append(sheet.height)
    row = heights[2] - heights[1]
    assert (heights[0], heights[1], heights[3]) == (row + 20, 5 * row + 20, 6 * row + 20)


def test_command_does_not_import_the_export_toolchain() -> None:
    names = "('torch', 'onnx', 'percept_models')"
    code = f"import sys\nfor name in {names}: sys.modules[name] = None\nimport percept.evaluation.command"
    subprocess.run([sys.executable, "-c", code], cwd=Path(command.__file__).parents[3], check=True)


def test_command_is_a_declared_entry_point() -> None:
    project = tomllib.loads((Path(command.__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["percept.commands"]["evaluate"] == "percept.evaluation.command:evaluate"
