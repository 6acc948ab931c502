"""What a model's filters look for, over HTTP: from the built-in bundles, and from bundles that hold none or worse."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from PIL import Image

from percept.bundle.manifest import read
from percept.runtime.execution_plan import Plan, crews
from percept.runtime.repository import Repository
from percept.settings import BUILT_IN
from tests.bundles import bundle, read_manifest, write_manifest

MODELS = {name: read(BUILT_IN / name / "1") for name in ("cifar10", "clothing")}


@pytest.fixture(scope="module")
def builtin(start: Callable[..., Any]) -> httpx.Client:
    return start().client


def shown(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(BytesIO(answer.content))


def drawn(folder: Path, kind: str, tile: tuple[int, int], **more: Any) -> dict[str, Any]:
    """Put a picture of two tiles, one of them red, into a bundle."""
    picture = Image.new("RGB", (2 * tile[1], tile[0]), (128, 128, 128))
    picture.paste((255, 0, 0), (0, 0, tile[1], tile[0]))
    picture.save(folder / f"{kind}.png")
    return {"kind": kind, "file": f"{kind}.png", "tile": tile, "channels": [0, 2], **more}


def named(folder: Path, *drawings: dict[str, Any]) -> None:
    """Name the pictures in the bundle's manifest."""
    manifest = read_manifest(folder)
    manifest["filters"] = drawings
    manifest["files"] |= {one["file"]: "" for one in drawings}
    write_manifest(folder, manifest, rehash=True)


@pytest.mark.parametrize("name", MODELS)
def test_a_built_in_model_shows_its_kernels_and_all_its_layers(builtin: httpx.Client, name: str) -> None:
    answer = builtin.get(f"/models/{name}/filters?format=json").json()
    assert answer["model"]["name"] == name
    layers = [layer.name for layer in MODELS[name].layers]
    found = [(one["view"], one["layer"]) for one in answer["filters"]]
    assert found == [
        *(("inversion", layer) for layer in layers),
        ("kernels", None),
        *(("maxima", layer) for layer in layers[1:]),
    ]
    kernels = shown(builtin.get(f"/models/{name}/filters"))
    assert (kernels.format, kernels.mode) == ("PNG", "RGB")
    assert min(kernels.size) > 200


@pytest.mark.parametrize("name", MODELS)
def test_what_was_found_excites_its_channel_more_than_noise(name: str) -> None:
    for one in MODELS[name].filters:
        if one.kind == "maxima":
            assert all(score > 1.5 * noise for score, noise in zip(one.scores, one.noise, strict=True)), one.layer


def test_a_found_image_excites_its_channel_when_it_is_posted(builtin: httpx.Client) -> None:
    (drawing,) = (one for one in MODELS["cifar10"].filters if (one.kind, one.layer) == ("maxima", "stage2"))
    for k, score in zip(drawing.channels, drawing.scores, strict=True):
        tile = builtin.get("/models/cifar10/filters", params={"layer": "stage2", "channel": k})
        assert shown(tile).size == (32, 32)
        found = builtin.post("/features?layer=stage2", content=tile.content).json()["channels"][k]
        assert found["mean"] == pytest.approx(score, rel=1e-2)


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_pictures_come_in_every_format(builtin: httpx.Client, form: str) -> None:
    answer = builtin.get("/models/cifar10/filters?layer=stage1", headers={"Accept": f"image/{form}"})
    assert answer.headers["content-type"] == f"image/{form}"
    assert shown(answer).format == form.upper()


def test_views_differ_and_none_is_drawn_for_all_layers_at_once(builtin: httpx.Client) -> None:
    def size(query: str) -> tuple[int, int]:
        return shown(builtin.get(f"/models/cifar10/filters?{query}")).size

    assert size("layer=stage2") == size("view=maxima&layer=stage2")
    assert size("view=maxima")[0] > 2 * size("layer=stage2")[0]
    assert size("view=inversion")[0] > size("view=inversion&layer=stem")[0]
    assert size("view=inversion&layer=image") == size("view=inversion&layer=stage2")


def test_json_is_narrowed_by_the_same_parameters(builtin: httpx.Client) -> None:
    found = builtin.get("/models/cifar10/filters?layer=stem", headers={"Accept": "application/json"}).json()["filters"]
    assert [one["view"] for one in found] == ["inversion", "maxima"]
    assert len(found[0]["scores"]) == 1
    assert len(found[1]["channels"]) == len(found[1]["scores"]) == len(found[1]["noise"]) > 1


def test_a_client_that_has_it_is_told_so(builtin: httpx.Client) -> None:
    first = builtin.get("/models/cifar10/filters")
    assert first.headers["etag"].startswith('"')
    again = builtin.get("/models/cifar10/filters", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = builtin.get("/models/cifar10/filters?layer=stem", headers={"If-None-Match": first.headers["etag"]})
    assert other.status_code == 200


REFUSED = [
    ("nobody/filters", 404, "unknown_model", "cifar10"),
    ("cifar10/filters?version=7", 404, "unknown_model", "has no version 7"),
    ("cifar10/filters?layer=stage9", 404, "unknown_layer", "stage2"),
    ("cifar10/filters?layer=image", 404, "unknown_filters", "no maxima of layer 'image', but kernels"),
    ("cifar10/filters?layer=stage2&channel=1", 404, "unknown_filters", "not of 1"),
    ("cifar10/filters?channel=9999", 404, "unknown_filters", "not of 9999"),
    ("cifar10/filters?channel=-1", 422, "bad_parameter", "channel"),
    ("cifar10/filters?view=kernels&layer=stem", 422, "bad_parameter", "leave out layer"),
    ("cifar10/filters?view=maxima&channel=0", 422, "bad_parameter", "of one layer"),
    ("cifar10/filters?view=inversion&layer=stem&channel=0", 422, "bad_parameter", "channel"),
    ("cifar10/filters?view=dreams", 422, "bad_parameter", "view"),
    ("cifar10/filters?format=npy", 422, "bad_parameter", "png, jpeg, webp, json"),
    ("cifar10/filters?colour=red", 422, "bad_parameter", "colour"),
]


@pytest.mark.parametrize(("path", "status", "code", "detail"), REFUSED)
def test_what_there_is_not_is_a_problem(builtin: httpx.Client, path: str, status: int, code: str, detail: str) -> None:
    answer = builtin.get(f"/models/{path}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert detail in answer.json()["detail"]


def test_no_format_that_is_accepted_is_a_problem(builtin: httpx.Client) -> None:
    answer = builtin.get("/models/cifar10/filters", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")


def test_a_bundle_without_pictures_is_served_and_says_how_to_get_them(client: httpx.Client) -> None:
    assert client.get("/models/segmentation-pad/filters?format=json").json()["filters"] == []
    for query in ("", "?layer=colour", "?view=inversion"):
        answer = client.get(f"/models/segmentation-pad/filters{query}")
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_filters")
        assert "no pictures of filters at all" in answer.json()["detail"]
        assert "percept visualize" in answer.json()["detail"]


def test_a_picture_that_breaks_while_it_is_served_breaks_no_answer(start: Callable[..., Any], tmp_path: Path) -> None:
    """It was read and checked when the bundle was loaded."""
    folder = bundle(tmp_path)
    named(folder, drawn(folder, "kernels", (3, 5)))
    client = start(tmp_path).client
    (folder / "kernels.png").write_bytes(b"")
    tile = np.asarray(shown(client.get("/models/marker/filters?channel=0")))
    assert tile.shape == (144, 240, 3)
    assert (tile == (255, 0, 0)).all()
    assert (np.asarray(shown(client.get("/models/marker/filters?channel=2"))) == 128).all()


def test_every_layer_begins_a_row_however_many_channels_are_drawn(start: Callable[..., Any], tmp_path: Path) -> None:
    """Three rows: of two tiles, of one, of two; the empty place is of the colour of the ground."""
    folder = bundle(tmp_path)
    manifest = read_manifest(folder)
    colour = manifest["layers"][0]
    trunk = onnx.load(folder / "trunk.onnx")
    for name in ("again", "anew"):
        trunk.graph.node.append(onnx.helper.make_node("Identity", ["colour"], [name]))
        trunk.graph.output.append(onnx.ValueInfoProto.FromString(trunk.graph.output[1].SerializeToString()))
        trunk.graph.output[-1].name = name
        manifest["layers"].append({**colour, "name": name, "tail": None, "unavailable": "not needed"})
    onnx.save(trunk, folder / "trunk.onnx")
    write_manifest(folder, manifest, rehash=True)
    two = drawn(folder, "maxima", (8, 8), scores=[1, 1], noise=[0, 0])
    Image.new("RGB", (8, 8), (0, 0, 255)).save(folder / "one.png")
    one = {**two, "file": "one.png", "layer": "again", "channels": [0], "scores": [1], "noise": [0]}
    named(folder, {**two, "layer": "colour"}, one, {**two, "layer": "anew"})
    picture = np.asarray(shown(start(tmp_path).client.get("/models/marker/filters?view=maxima")))
    corners = np.argwhere((picture == (255, 0, 0)).all(2))[:, 1]
    assert (corners < picture.shape[1] // 2).all()
    assert (picture[picture.shape[0] // 2, -30] == (24, 24, 27)).all()


def _text(folder: Path, one: dict[str, Any]) -> None:
    (folder / one["file"]).write_text("no picture")


def _cut(folder: Path, one: dict[str, Any]) -> None:
    data = (folder / one["file"]).read_bytes()
    (folder / one["file"]).write_bytes(data[: len(data) // 2])


def _grey(folder: Path, one: dict[str, Any]) -> None:
    Image.open(folder / one["file"]).convert("L").save(folder / one["file"])


def _jpeg(folder: Path, one: dict[str, Any]) -> None:
    Image.open(folder / one["file"]).save(folder / one["file"], "JPEG")


def _small(_folder: Path, one: dict[str, Any]) -> None:
    one["tile"] = (3, 11)


@pytest.mark.parametrize("harm", [_text, _cut, _grey, _jpeg, _small])
def test_a_bundle_with_a_picture_that_is_none_is_refused_by_name(tmp_path: Path, harm: Callable[..., None]) -> None:
    """Even where its hash is right; others are served."""
    good, bad = bundle(tmp_path, "good"), bundle(tmp_path, "bad")
    for folder in (good, bad):
        one = drawn(folder, "kernels", (3, 5))
        named(folder, one)
    harm(bad, one)
    named(bad, one)
    plan = Plan("cpu", 1, 1, 1, 1)
    repository = Repository(tmp_path, plan, crews(plan, 1))
    repository.load()
    assert list(repository.find("good").drawn) == ["kernels.png"]
    assert repository.refused["bad/1"].startswith("kernels.png is no picture of kernels: ")
