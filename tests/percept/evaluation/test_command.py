"""`percept evaluate`: over a folder of photos it says what the service says of each of them."""

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from percept.bundle.manifest import Preprocessing
from percept.errors import (
    BadParameter,
    BundleError,
    GradientsUnavailable,
    MethodUnavailable,
    PerceptError,
    UnknownLayer,
)
from percept.evaluation import command as command
from percept.evaluation.command import BASELINES, evaluate
from percept.evaluation.photos import Gallery, Truth
from percept.evaluation.table import COLUMNS, Verdict, located, markdown, plain, rows
from percept.explain.faithfulness import STEPS, measured
from percept.explain.methods import METHODS
from percept.imaging.decode import geometry
from tests.bundles import bundle, read_manifest, write_manifest
from tests.photos import encoded, marked

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
SIZE = (150, 110)
PLACES = {"one.png": ((40, 30), RED), "two.jpg": ((100, 70), BLUE), "deep/er/three.webp": ((60, 80), RED)}
QUICK = [name for name, method in METHODS.items() if method.needs != "image" and not method.alone]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos of a marker, and beside the folder a mask of each marker: 255 in it, 0 elsewhere."""
    folder = tmp_path / "photos"
    for name, (centre, colour) in PLACES.items():
        photo, mask = folder / name, (tmp_path / "masks" / name).with_suffix(".png")
        for file in (photo, mask):
            file.parent.mkdir(parents=True, exist_ok=True)
        kind = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[photo.suffix]
        photo.write_bytes(encoded(marked(SIZE, centre, 16, colour), kind, quality=95))
        Image.fromarray(inside(centre).astype(np.uint8) * 255).save(mask)
    return folder


def inside(centre: tuple[int, int]) -> np.ndarray:
    """Where a marker is."""
    y, x = np.indices(SIZE[::-1])
    return (abs(x + 0.5 - centre[0]) < 16) & (abs(y + 0.5 - centre[1]) < 16)


@pytest.fixture
def run(bundles: Path, photos: Path, tmp_path: Path) -> Callable[..., dict]:
    """Evaluate a marker bundle on the photos; gives table.json."""

    def run(*more: str, model: str = "classification-squeeze") -> dict:
        out = tmp_path / "out"
        assert evaluate([str(bundles / model / "1"), str(photos), "--out", str(out), *more]) == 0
        return json.loads((out / "table.json").read_text())

    return run


def by_method(table: dict) -> dict[str, dict]:
    return {row["method"]: row for row in table["rows"]}


@pytest.mark.parametrize("model", ["classification-squeeze", "segmentation-crop"])
def test_the_numbers_are_those_of_the_service(run, photos: Path, client: httpx.Client, model: str) -> None:
    table = by_method(run("--methods", "gradcam,hirescam,eigencam", model=model))
    for method in ("gradcam", "hirescam", "eigencam"):
        url = f"/cam?model={model}&method={method}&format=json&faithfulness=true"
        said = [client.post(url, content=(photos / name).read_bytes()).json()["faithfulness"] for name in PLACES]
        values = {
            "average_drop": [100 * one["average_drop"] for one in said],
            "increase": [100 * one["increase"] for one in said],
            "deletion": [one["deletion"] for one in said],
            "insertion": [one["insertion"] for one in said],
            "difference": [one["insertion"] - one["deletion"] for one in said],
        }
        for name, numbers in values.items():
            found = table[method][name]
            assert found["value"] == pytest.approx(statistics.mean(numbers), rel=1e-5), name
            assert found["error"] == pytest.approx(statistics.stdev(numbers) / 3**0.5, rel=1e-4), name
            assert found["n"] == 3
        assert 0 < table[method]["milliseconds"]["value"] < 1000


def test_it_writes_two_tables_and_a_sheet_and_prints_one(run, tmp_path: Path, capsys) -> None:
    data = run()
    said = capsys.readouterr()
    text = (tmp_path / "out" / "table.md").read_text()
    table = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    assert said.out.startswith(table + "\n")
    assert text.startswith("# classification-squeeze/1 at colour, 3 photos\n")
    assert len(table.splitlines()) == 2 + len(data["rows"])
    names = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert names == [f"*{row['method']}*" if row["baseline"] else row["method"] for row in data["rows"]]
    assert len({len(line) for line in table.splitlines()}) == 1
    progress = [line for line in said.err.splitlines() if re.match(r"\d/3  ", line)]
    assert [line.split()[1] for line in progress] == sorted(PLACES)
    assert re.fullmatch(r"2/3  one.png  red 0\.\d\d  \d+\.\d s", progress[1])
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        columns, cell = len(names) + 1, 340  # tiles of 320 and a gap of 20
        assert sheet.width == columns * cell + 20
        assert 3 * 235 < sheet.height < 3 * 320


def test_the_sheet_shows_the_photos_and_beside_them_the_maps(run, tmp_path: Path, photos: Path) -> None:
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


def test_what_is_hot_is_pointed_at_and_a_random_map_points_nowhere_in_particular(run) -> None:
    table = by_method(run())
    assert set(table) == {*QUICK, *BASELINES}
    assert table["hirescam"]["pointing"] == {"value": 100, "error": 0, "n": 3}
    assert table["hirescam"]["energy"]["value"] > 70
    assert table["random"]["energy"]["value"] < 20
    assert table["hirescam"]["difference"]["value"] > table["random"]["difference"]["value"]
    assert table["hirescam"]["difference"]["value"] > table["centre"]["difference"]["value"]
    assert table["random"]["milliseconds"] is None


def test_the_best_come_first(run) -> None:
    table = run()["rows"]
    found = [round(row["difference"]["value"], 6) for row in table]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) > 2
    alike = [row["method"] for row in table if row["method"] in ("cam", "gradcam", "hirescam")]  # by theory
    assert alike == ["cam", "gradcam", "hirescam"]


def test_the_same_is_found_again(run) -> None:
    first, second = run(), run()
    for table in (first, second):
        for row in table["rows"]:
            row.pop("milliseconds")
    assert first == second


def test_slow_methods_are_left_out_unless_they_are_wanted(run, tmp_path: Path, capsys) -> None:
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


def test_broken_files_are_named_and_skipped_and_others_not_looked_at(run, photos: Path, capsys) -> None:
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


def test_masks_in_the_folder_and_what_was_written_there_are_no_photos(photos: Path, bundles: Path) -> None:
    (photos.parent / "masks").rename(photos / "masks")
    out = photos / "out"
    for _ in range(2):
        model = str(bundles / "classification-squeeze" / "1")
        evaluate([model, str(photos), "--methods", "gradcam", "--out", str(out)])
        data = json.loads((out / "table.json").read_text())
        assert data["photos"] == by_method(data)["gradcam"]["pointing"]["n"] == 3
    assert (out / "sheet.png").is_file()


def test_without_masks_there_is_nothing_to_point_at(run, photos: Path, tmp_path: Path) -> None:
    (photos.parent / "masks").rename(photos.parent / "elsewhere")
    row = by_method(run("--methods", "gradcam"))["gradcam"]
    assert (row["pointing"], row["energy"]) == (None, None)
    assert "pointing" not in (tmp_path / "out" / "table.md").read_text().split("\n\n")[1]
    row = by_method(run("--methods", "gradcam", "--masks", str(photos.parent / "elsewhere")))["gradcam"]
    assert row["pointing"]["n"] == 3


def test_a_mask_that_does_not_fit_is_said_and_left_out(run, photos: Path, capsys) -> None:
    masks = photos.parent / "masks"
    Image.new("L", (20, 20), 1).save(masks / "one.png")
    Image.new("RGB", SIZE).save(masks / "two.png")
    row = by_method(run("--methods", "gradcam"))["gradcam"]
    assert (row["pointing"]["n"], row["deletion"]["n"]) == (1, 3)
    said = capsys.readouterr().err
    assert "one.png is 20 x 20, the photo 150 x 110" in said
    assert "two.png has 3 channels" in said
    (masks / "one.png").write_bytes(b"no picture")
    run("--methods", "gradcam")
    assert "one.png is no mask" in capsys.readouterr().err


def test_a_segmenters_mask_says_the_class(run, photos: Path) -> None:
    """Marked 1 is red and 3 is blue; another class is no object, and 255 is not known."""
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


def test_what_a_segmenters_mask_does_not_know_counts_for_nothing(run, photos: Path) -> None:
    for name, (centre, colour) in PLACES.items():
        values = np.where(inside(centre), 1 if colour == RED else 3, 255).astype(np.uint8)
        Image.fromarray(values).save((photos.parent / "masks" / name).with_suffix(".png"))
    row = by_method(run("--methods", "hirescam", model="segmentation-squeeze"))["hirescam"]
    assert row["energy"]["value"] == pytest.approx(100)


BAD = [
    (["--methods", "gradcam,magic"], "classification-squeeze", BadParameter, "no method 'magic'"),
    (["--methods", ","], "classification-squeeze", BadParameter, "no method ''"),
    (["--methods", "cam"], "segmentation-squeeze", MethodUnavailable, "take gradcam"),
    (["--methods", "gradcam"], "no-gradients", GradientsUnavailable, "no rule"),
    (["--layer", "body"], "classification-squeeze", UnknownLayer, "it has colour"),
    (["--layer", "colour+body"], "classification-squeeze", UnknownLayer, "'body'"),
    (["--masks", "/nowhere"], "classification-squeeze", PerceptError, "no folder of masks"),
    (["--out", "/dev/null/out"], "classification-squeeze", PerceptError, "/dev/null"),
    ([], "absent", BundleError, "manifest"),
]


@pytest.mark.parametrize(("more", "model", "kind", "words"), BAD)
def test_what_cannot_be_evaluated_is_said(run, more: list[str], model: str, kind, words: str) -> None:
    with pytest.raises(kind, match=words):
        run(*more, model=model)


def test_masks_must_lie_apart_from_the_photos(run, photos: Path) -> None:
    with pytest.raises(PerceptError, match="no folder of masks alone"):
        run("--masks", str(photos))


def test_a_folder_without_photos_is_an_error(bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    model = str(bundles / "classification-squeeze" / "1")
    with pytest.raises(PerceptError, match=r"there is no photo in .*\.jpg"):
        evaluate([model, str(tmp_path)])
    with pytest.raises(PerceptError, match="there is no folder"):
        evaluate([model, str(tmp_path / "absent")])
    (tmp_path / "one.png").write_bytes(b"broken")
    with pytest.raises(PerceptError, match=r"every photo of .* is broken"):
        evaluate([model, str(tmp_path), "--out", str(tmp_path / "out")])


def test_bare_logits_cannot_be_evaluated(photos: Path, tmp_path: Path) -> None:
    folder = bundle(tmp_path, "bare")
    write_manifest(folder, read_manifest(folder) | {"activation": "none"})
    with pytest.raises(BadParameter, match="bare logits"):
        evaluate([str(folder), str(photos), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("limit", ["0", "-1", "many", "1.5"])
def test_a_limit_is_a_number_of_photos(run, limit: str, capsys) -> None:
    with pytest.raises(SystemExit):
        run(f"--limit={limit}")
    assert "a whole number from 1 on" in capsys.readouterr().err


def test_a_limit_takes_photos_from_all_over_the_folder(tmp_path: Path) -> None:
    for k in range(10):
        (tmp_path / f"{k}.png").write_bytes(b"")
    gallery = Gallery(tmp_path)
    for limit, names in ((1, "0"), (2, "05"), (3, "036"), (10, "0123456789"), (99, "0123456789"), (None, "0123456789")):
        assert "".join(file.stem for file in gallery.some(limit)) == names


def test_layers_can_be_fused(run) -> None:
    fused, one = run("--layer", "colour+colour", "--methods", "gradcam"), run("--methods", "gradcam")
    assert fused["layer"] == "colour+colour"
    assert by_method(fused)["gradcam"]["deletion"] == pytest.approx(by_method(one)["gradcam"]["deletion"])


def test_a_sheet_has_a_row_for_each_of_the_first_six_photos(run, photos: Path, tmp_path: Path) -> None:
    heights = []
    for more in range(5):
        (photos / f"more{more}.png").write_bytes((photos / "one.png").read_bytes())
    for count in (1, 5, 6, 8):
        assert run("--methods", "gradcam", "--limit", str(count))["photos"] == count
        with Image.open(tmp_path / "out" / "sheet.png") as sheet:
            heights.append(sheet.height)
    row = heights[2] - heights[1]
    assert (heights[0], heights[1], heights[3]) == (row + 20, 5 * row + 20, 6 * row + 20)


# Baselines and masks


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_a_map_of_the_input_that_knows_nothing_of_the_network(name: str) -> None:
    one, again, other = (BASELINES[name](number, (64, 48)) for number in (1, 1, 2))
    assert (one.dtype, one.shape, one.max()) == (np.float32, (64, 48), 1)
    assert one.min() >= 0
    np.testing.assert_array_equal(one, again)
    assert (name == "centre") == np.array_equal(one, other)


def test_the_centre_is_in_the_middle() -> None:
    found = BASELINES["centre"](0, (33, 21))
    assert found.argmax() == 16 * 21 + 10
    np.testing.assert_allclose(found, found[::-1, ::-1], rtol=1e-5)
    assert found[0, 10] == pytest.approx(np.exp(-2), rel=1e-5)


VIEW = geometry((8, 8), Preprocessing(height=8, width=8))
ALL = np.ones((8, 8), bool)
CORNER = np.zeros((8, 8), bool)
CORNER[:4, :4] = True


def heat(row: int, column: int) -> np.ndarray:
    found = np.zeros((8, 8), np.float32)
    found[row, column] = 1
    return found


def test_the_peak_lies_in_the_object_or_not() -> None:
    assert located(heat(1, 2), VIEW, Truth(CORNER, ALL)) == (True, 1)
    assert located(heat(5, 2), VIEW, Truth(CORNER, ALL)) == (False, 0)
    half = heat(1, 2) + heat(7, 7) / 2
    assert located(half, VIEW, Truth(CORNER, ALL)) == (True, pytest.approx(2 / 3))


def test_a_map_of_few_cells_points_at_the_centre_of_the_hottest() -> None:
    coarse = np.array([[0, 1], [0, 0]], np.float32)
    centre = np.zeros((8, 8), bool)
    centre[2, 6] = True
    assert located(coarse, VIEW, Truth(centre, ALL))[0] is True
    assert located(coarse, VIEW, Truth(~centre, ALL))[0] is False


def test_a_map_of_zeros_points_nowhere() -> None:
    assert located(np.zeros((2, 2), np.float32), VIEW, Truth(CORNER, ALL)) == (False, 0)


def test_what_is_not_known_counts_for_neither() -> None:
    half = heat(1, 2) + heat(7, 7) / 2
    assert located(half, VIEW, Truth(CORNER, CORNER)) == (True, 1)
    assert located(heat(7, 7) + heat(1, 1) / 4, VIEW, Truth(CORNER, CORNER)) == (None, 1)
    for truth in (None, Truth(~ALL, ALL), Truth(CORNER, ~CORNER)):
        assert located(half, VIEW, truth) == (None, None)


def test_an_object_outside_of_a_crop_was_not_seen() -> None:
    rule = Preprocessing(height=8, width=8, resize="crop", short_side=8)
    view = geometry((24, 8), rule)
    left = np.zeros((8, 24), bool)
    left[:, :8] = True
    known = np.ones_like(left)
    assert located(heat(1, 1), view, Truth(left, known)) == (None, None)
    left[:, 8:10] = True
    assert located(heat(1, 1), view, Truth(left, known)) == (True, 1)
    assert located(heat(1, 5), view, Truth(left, known)) == (False, 0)


# The table


def verdict(insertion: float, drop: float = 0.0, seconds: float | None = None, **more: object) -> Verdict:
    flat = [0.0] * STEPS + [insertion] * STEPS
    return Verdict(measured(1.0, [0, 0, 1 - drop, *flat]), seconds, **more)


def test_a_figure_is_a_mean_with_its_standard_error_or_a_median() -> None:
    table = rows({"a": [verdict(0, drop, s) for drop, s in ((0.1, 1.0), (0.2, 2.0), (0.6, 9.0))]})
    drop = table["a"]["average_drop"]
    assert (drop.value, drop.error, drop.n) == pytest.approx((30, statistics.stdev([10, 20, 60]) / 3**0.5, 3))
    ms = table["a"]["milliseconds"]
    assert (ms.value, ms.error, ms.n) == (2000, None, 3)
    assert rows({"a": [verdict(0)]})["a"]["average_drop"].error is None


def test_photos_without_a_mask_do_not_count() -> None:
    many = [verdict(0), verdict(0, pointing=True, energy=0.5), verdict(0, pointing=False, energy=0.1)]
    row = rows({"a": many})["a"]
    assert (row["pointing"].value, row["pointing"].n) == (50, 2)
    assert row["energy"].value == pytest.approx(30)


def test_the_table_is_aligned_and_knows_what_was_not_measured() -> None:
    table = rows({"bad": [verdict(0.1), verdict(0.3)], "good": [verdict(0.9, seconds=0.25)]})
    lines = markdown(table, ["bad"]).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["good", "*bad*"]
    assert "pointing" not in lines[0]
    assert [cell.strip() for cell in lines[3].split("|")][-2] == "–"
    assert [cell.strip() for cell in lines[2].split("|")][-2] == "250.0"
    assert "0.225 ± 0.097" in lines[3]  # 16 points at 0.1 or 0.3, then 1: (15.5 v + 0.5) / 16
    found = plain(table, ["bad"])
    assert [(row["method"], row["baseline"]) for row in found] == [("good", False), ("bad", True)]
    assert found[0]["pointing"] is None
    assert json.loads(json.dumps(found)) == found


def test_every_column_has_a_direction_but_the_time() -> None:
    assert all(re.search("[↑↓]$", column.heading) for name, column in COLUMNS.items() if name != "milliseconds")


def test_evaluating_needs_nothing_of_the_offline_house() -> None:
    import subprocess
    import sys

    code = "import sys\nfor n in ('torch', 'onnx', 'models'): sys.modules[n] = None\nimport service.evaluate"
    subprocess.run([sys.executable, "-c", code], cwd=Path(command.__file__).parents[3], check=True)


def test_the_command_is_declared() -> None:
    import tomllib

    project = tomllib.loads((Path(command.__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["percept.commands"]["evaluate"] == "percept.evaluation.command:evaluate"
