"""`/models/{name}/filters` on a real server: built-in bundles, bundles without filter pictures, invalid pictures."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from percept.bundle.integrity import read_manifest
from percept.runtime.execution_plan import ExecutionPlan, create_worker_pools
from percept.runtime.repository import Repository
from percept.settings import BUILT_IN_BUNDLES
from tests.bundles import create_bundle, read_manifest_json, write_manifest

MODELS = {name: read_manifest(BUILT_IN_BUNDLES / name / "1") for name in ("cifar10", "clothing")}


@pytest.fixture(scope="module")
def builtin(start: Callable[..., Any]) -> httpx.Client:
    return start().client


def image_of(response: httpx.Response) -> Image.Image:
    assert response.status_code == 200, response.text
    return Image.open(BytesIO(response.content))


def save_picture(folder: Path, kind: str, tile: tuple[int, int], **more: Any) -> dict[str, Any]:
    """Save a picture of two tiles, a red and a grey one, in a bundle, and return its entry for the manifest."""
    picture = Image.new("RGB", (2 * tile[1], tile[0]), (128, 128, 128))
    picture.paste((255, 0, 0), (0, 0, tile[1], tile[0]))
    picture.save(folder / f"{kind}.png")
    return {"kind": kind, "file": f"{kind}.png", "tile": tile, "channels": [0, 2], **more}


def list_pictures(folder: Path, *pictures: dict[str, Any]) -> None:
    """List pictures in the manifest of a bundle."""
    manifest = read_manifest_json(folder)
    manifest["filters"] = pictures
    manifest["files"] |= {one["file"]: "" for one in pictures}
    write_manifest(folder, manifest, rehash=True)


@pytest.mark.parametrize("name", MODELS)
def test_built_in_models_have_pictures_of_every_layer(builtin: httpx.Client, name: str) -> None:
    response = builtin.get(f"/models/{name}/filters?format=json").json()
    assert response["model"]["name"] == name
    layers = [layer.name for layer in MODELS[name].layers]
    found = [(one["view"], one["layer"]) for one in response["filters"]]
    assert found == [
        *(("inversion", layer) for layer in layers),
        ("kernels", None),
        *(("maxima", layer) for layer in layers[1:]),
    ]
    kernels = image_of(builtin.get(f"/models/{name}/filters"))
    assert (kernels.format, kernels.mode) == ("PNG", "RGB")
    assert min(kernels.size) > 200


@pytest.mark.parametrize("name", MODELS)
def test_maxima_activate_their_channel_more_than_noise(name: str) -> None:
    for one in MODELS[name].filters:
        if one.kind == "maxima":
            assert all(score > 1.5 * noise for score, noise in zip(one.scores, one.noise, strict=True)), one.layer


def test_posted_maximum_activates_its_channel(builtin: httpx.Client) -> None:
    (picture,) = (one for one in MODELS["cifar10"].filters if (one.kind, one.layer) == ("maxima", "stage2"))
    for k, score in zip(picture.channels, picture.scores, strict=True):
        tile = builtin.get("/models/cifar10/filters", params={"layer": "stage2", "channel": k})
        assert image_of(tile).size == (32, 32)
        found = builtin.post("/features?layer=stage2", content=tile.content).json()["channels"][k]
        assert found["mean"] == pytest.approx(score, rel=1e-2)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_accept_chooses_the_picture_format(builtin: httpx.Client, format: str) -> None:
    response = builtin.get("/models/cifar10/filters?layer=stage1", headers={"Accept": f"image/{format}"})
    assert response.headers["content-type"] == f"image/{format}"
    assert image_of(response).format == format.upper()


def test_view_and_layer_select_pictures(builtin: httpx.Client) -> None:
    def size(query: str) -> tuple[int, int]:
        return image_of(builtin.get(f"/models/cifar10/filters?{query}")).size

    assert size("layer=stage2") == size("view=maxima&layer=stage2")
    assert size("view=maxima")[0] > 2 * size("layer=stage2")[0]
    assert size("view=inversion")[0] > size("view=inversion&layer=stem")[0]
    assert size("view=inversion&layer=image") == size("view=inversion&layer=stage2")


def test_view_and_layer_filter_the_json(builtin: httpx.Client) -> None:
    found = builtin.get("/models/cifar10/filters?layer=stem", headers={"Accept": "application/json"}).json()["filters"]
    assert [one["view"] for one in found] == ["inversion", "maxima"]
    assert len(found[0]["scores"]) == 1
    assert len(found[1]["channels"]) == len(found[1]["scores"]) == len(found[1]["noise"]) > 1


@pytest.mark.parametrize("format", ["png", "json"])
def test_known_etag_gives_a_304_with_the_same_headers(builtin: httpx.Client, format: str) -> None:
    first = builtin.get(f"/models/cifar10/filters?format={format}")
    etag = first.headers["etag"]
    assert etag.startswith('"')
    for known in (etag, f"W/{etag}", f'"a,b", {etag}', "*"):
        again = builtin.get(f"/models/cifar10/filters?format={format}", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        for name in ("etag", "cache-control", "vary"):
            assert again.headers[name] == first.headers[name]
    other = builtin.get(f"/models/cifar10/filters?layer=stem&format={format}", headers={"If-None-Match": etag})
    assert other.status_code == 200


PROBLEMS = [
    ("unknown/filters", 404, "unknown_model", "cifar10"),
    ("cifar10/filters?version=7", 404, "unknown_model", "has no version 7"),
    ("cifar10/filters?layer=stage9", 404, "unknown_layer", "stage2"),
    ("cifar10/filters?layer=image", 404, "unknown_filters", "no maxima of layer 'image'; it has kernels"),
    ("cifar10/filters?layer=stage2&channel=1", 404, "unknown_filters", "not of 1"),
    ("cifar10/filters?channel=9999", 404, "unknown_filters", "not of 9999"),
    ("cifar10/filters?channel=-1", 422, "bad_parameter", "channel"),
    ("cifar10/filters?view=kernels&layer=stem", 422, "bad_parameter", "omit layer"),
    ("cifar10/filters?view=maxima&channel=0", 422, "bad_parameter", "of one layer"),
    ("cifar10/filters?view=inversion&layer=stem&channel=0", 422, "bad_parameter", "channel"),
    ("cifar10/filters?view=dreams", 422, "bad_parameter", "view"),
    ("cifar10/filters?format=npy", 422, "bad_parameter", "png, jpeg, webp, json"),
    ("cifar10/filters?colour=red", 422, "bad_parameter", "colour"),
]


@pytest.mark.parametrize(("path", "status", "code", "detail"), PROBLEMS)
def test_invalid_request_is_a_problem(builtin: httpx.Client, path: str, status: int, code: str, detail: str) -> None:
    response = builtin.get(f"/models/{path}")
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert detail in response.json()["detail"]


def test_unavailable_accept_is_a_problem(builtin: httpx.Client) -> None:
    response = builtin.get("/models/cifar10/filters", headers={"Accept": "text/html"})
    assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")


def test_bundle_without_pictures_names_the_remedy(client: httpx.Client) -> None:
    assert client.get("/models/segmentation-pad/filters?format=json").json()["filters"] == []
    for query in ("", "?layer=colour", "?view=inversion"):
        response = client.get(f"/models/segmentation-pad/filters{query}")
        assert (response.status_code, response.json()["code"]) == (404, "unknown_filters")
        assert "no filter pictures" in response.json()["detail"]
        assert "percept visualize" in response.json()["detail"]


def test_picture_file_may_change_after_load(start: Callable[..., Any], tmp_path: Path) -> None:
    """The server has the bytes in memory."""
    folder = create_bundle(tmp_path)
    list_pictures(folder, save_picture(folder, "kernels", (3, 5)))
    client = start(tmp_path).client
    (folder / "kernels.png").write_bytes(b"")
    tile = np.asarray(image_of(client.get("/models/marker/filters?channel=0")))
    assert tile.shape == (144, 240, 3)
    assert (tile == (255, 0, 0)).all()
    assert (np.asarray(image_of(client.get("/models/marker/filters?channel=2"))) == 128).all()


def write_text(folder: Path, one: dict[str, Any]) -> None:
    (folder / one["file"]).write_text("not a picture")


def truncate(folder: Path, one: dict[str, Any]) -> None:
    data = (folder / one["file"]).read_bytes()
    (folder / one["file"]).write_bytes(data[: len(data) // 2])


def convert_to_grey(folder: Path, one: dict[str, Any]) -> None:
    Image.open(folder / one["file"]).convert("L").save(folder / one["file"])


def convert_to_jpeg(folder: Path, one: dict[str, Any]) -> None:
    Image.open(folder / one["file"]).save(folder / one["file"], "JPEG")


def declare_larger_tiles(_folder: Path, one: dict[str, Any]) -> None:
    one["tile"] = (3, 11)


@pytest.mark.parametrize("damage", [write_text, truncate, convert_to_grey, convert_to_jpeg, declare_larger_tiles])
def test_bundle_with_an_invalid_picture_is_refused(tmp_path: Path, damage: Callable[..., None]) -> None:
    """Although the hash of the file is right; other bundles are served."""
    good, bad = create_bundle(tmp_path, "good"), create_bundle(tmp_path, "bad")
    for folder in (good, bad):
        one = save_picture(folder, "kernels", (3, 5))
        list_pictures(folder, one)
    damage(bad, one)
    list_pictures(bad, one)
    plan = ExecutionPlan("cpu", 1, 1, 1, 1)
    repository = Repository(tmp_path, plan, create_worker_pools(plan, 1))
    repository.load_all()
    assert list(repository.find("good").filter_pictures) == ["kernels.png"]
    assert repository.refused["bad/1"].startswith("kernels.png is not a picture of kernels: ")
