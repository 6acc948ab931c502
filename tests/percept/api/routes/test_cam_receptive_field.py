"""The hottest cell of a map and its receptive field, in JSON and outlined in pictures."""

import io
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from percept.explain.methods.table import METHODS
from percept.imaging.overlay import FIELD_COLOUR, PEAK_COLOUR
from tests.bundles import create_bundle, read_manifest_json, write_manifest
from tests.photos import draw_marker, encode_photo

# The bundles take 48 x 64 pixels in cells of 4 x 4 pixels; nothing is resized, and one cell alone is red.
PHOTO = draw_marker((48, 64), (22, 42), 2)
DATA = encode_photo(PHOTO)
LARGE = encode_photo(draw_marker((90, 120), (30, 40), 20))
URL = "/cam?model=classification-squeeze&target=red"
SIDES = ("left", "top", "right", "bottom")


def peak(client: httpx.Client, query: str = "", data: bytes = DATA) -> dict | None:
    answer = client.post(f"{URL}{query}&format=json", content=data)
    assert answer.status_code == 200, answer.text
    return answer.json()["peak"]


def picture(client: httpx.Client, query: str = "", data: bytes = DATA) -> np.ndarray:
    answer = client.post(f"{URL}{query}", content=data)
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))


@pytest.fixture(scope="module")
def builtin(start: Callable[..., Any]) -> httpx.Client:
    """A client of a server with the built-in models."""
    return start().client


def test_field_of_the_peak_contains_its_cell(client: httpx.Client) -> None:
    hottest = peak(client)
    assert hottest is not None
    assert hottest["field"] == {"cell": [10, 5], "left": 20, "top": 40, "right": 24, "bottom": 44, "whole": False}


def test_field_of_the_peak_equals_that_of_features(client: httpx.Client) -> None:
    for rule in ("squeeze", "crop", "pad"):
        for size in ((150, 110), (90, 200)):
            data = encode_photo(draw_marker(size, (size[0] / 2, size[1] / 2), 12))
            found = client.post(f"/cam?model=classification-{rule}&target=red&format=json", content=data).json()
            x, y = found["peak"]["x"], found["peak"]["y"]
            url = f"/features?model=classification-{rule}&layer=colour&x={x}&y={y}"
            assert found["peak"]["field"] == client.post(url, content=data).json()["field"]


@pytest.mark.parametrize("method", METHODS)
def test_peak_of_every_method_is_a_cell_of_the_layer(client: httpx.Client, method: str) -> None:
    answer = client.post(f"{URL}&method={method.replace('+', '%2B')}&format=json", content=DATA)
    if answer.status_code != 200:
        assert answer.json()["code"] == "method_unavailable"
        return
    if answer.json()["peak"]:
        row, column = answer.json()["peak"]["field"]["cell"]
        assert (row, column) < tuple(answer.json()["shape"])


def test_blank_photos_have_no_peak_and_no_outline(client: httpx.Client) -> None:
    blank = encode_photo(Image.new("RGB", (48, 64), (128, 128, 128)))
    assert peak(client, data=blank) is None
    np.testing.assert_array_equal(
        picture(client, "&format=png&field=true", blank), picture(client, "&format=png&field=false", blank)
    )


def test_fused_layers_have_no_field(builtin: httpx.Client) -> None:
    layers = [layer["name"] for layer in builtin.get("/models/cifar10").json()["layers"]][-2:]
    data = encode_photo(draw_marker((60, 60), (20, 20), 9))

    def peak(layer: str) -> dict:
        return builtin.post(f"/cam?format=json&layer={layer}", content=data).json()["peak"]

    assert peak("%2B".join(layers))["field"] is None
    assert all(peak(layer)["field"] for layer in layers)
    assert peak(f"{layers[0]}%2B{layers[0]}")["field"] == peak(layers[0])["field"]
    outlined = builtin.post(f"/cam?format=png&field=true&layer={'%2B'.join(layers)}", content=data)
    pixels = np.asarray(Image.open(io.BytesIO(outlined.content))).reshape(-1, 3).tolist()
    assert list(PEAK_COLOUR) in pixels
    assert list(FIELD_COLOUR) not in pixels, "the cell is known, but its field is not"


@pytest.mark.parametrize("view", ["overlay", "heatmap"])
def test_outline_changes_only_its_own_pixels(client: httpx.Client, view: str) -> None:
    plain = picture(client, f"&format=png&view={view}")
    found = picture(client, f"&format=png&view={view}&field=true")
    assert found.shape == plain.shape
    np.testing.assert_array_equal(found[40:44, 20:24], plain[40:44, 20:24])
    assert found[39, 20:24].tolist() == [[*PEAK_COLOUR, 255]] * 4
    outside = np.ones(found.shape[:2], bool)
    outside[38:46, 18:26] = False
    np.testing.assert_array_equal(found[outside], plain[outside])


def test_large_fields_are_outlined_at_their_border(start, tmp_path) -> None:
    folder = create_bundle(tmp_path, height=64, width=48)
    manifest = read_manifest_json(folder)
    manifest["layers"][0]["receptive_field"]["size"] = [20, 12]
    write_manifest(folder, manifest)
    client = start(tmp_path).client
    field = client.post("/cam?format=json&target=red", content=DATA).json()["peak"]["field"]
    assert [field[side] for side in SIDES] == [16, 32, 28, 52]
    answer = client.post("/cam?format=png&target=red&field=true", content=DATA)
    found = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert found[31, 16:28].tolist() == found[52, 16:28].tolist() == [[*FIELD_COLOUR]] * 12
    assert found[32:52, 15].tolist() == found[32:52, 28].tolist() == [[*FIELD_COLOUR]] * 20
    assert found[30, 16:28].max() == 0


def test_outlined_heatmaps_keep_unseen_pixels_transparent(client: httpx.Client) -> None:
    data = encode_photo(draw_marker((130, 70), (65, 35), 10))
    url = "/cam?model=classification-crop&target=red&view=heatmap&field=true&format="
    for name in ("png", "webp"):
        found = Image.open(io.BytesIO(client.post(url + name, content=data).content)).convert("RGBA")
        assert np.asarray(found)[3, 3, 3] == 0
    grey = Image.open(io.BytesIO(client.post(url + "jpeg", content=data).content))
    assert grey.mode == "RGB"
    assert grey.getpixel((3, 3)) == pytest.approx((128, 128, 128), abs=2)


@pytest.mark.parametrize("query", ["&view=sheet&by=classes", "&legend=true", "&target=blue", "&view=heatmap&top=1"])
def test_every_picture_can_be_outlined(client: httpx.Client, query: str) -> None:
    plain, found = (picture(client, f"{query}&format=png{more}") for more in ("", "&field=true"))
    assert plain.shape == found.shape
    assert (plain != found).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 2), (2000, 3)])
@pytest.mark.parametrize("rule", ["squeeze", "crop", "pad"])
def test_photos_of_any_shape_can_be_outlined(client: httpx.Client, rule: str, size: tuple[int, int]) -> None:
    data = encode_photo(Image.new("RGB", size, (255, 0, 0)))
    for url in (f"/cam?model=classification-{rule}", f"/cam?model=classification-{rule}&view=heatmap"):
        answer = client.post(f"{url}&field=true&format=png", content=data)
        assert answer.status_code == 200, answer.text
        assert Image.open(io.BytesIO(answer.content)).size == size
    url = f"/features?model=classification-{rule}&layer=colour&view=field&x={size[0] / 2}&y={size[1] / 2}"
    assert client.post(url, content=data).status_code == 200


def test_arrays_cannot_be_outlined(client: httpx.Client) -> None:
    answer = client.post(f"{URL}&field=true&format=npy", content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
    assert "field is for format=jpeg|png|webp|multipart|zip|json, not for format=npy" in answer.json()["detail"]


def test_effective_field_of_the_peak_equals_that_of_features(builtin: httpx.Client) -> None:
    query = {"model": "clothing", "layer": "stage3", "target": "0"}
    hottest = builtin.post("/cam", params=query | {"field": "effective", "format": "json"}, content=LARGE).json()[
        "peak"
    ]
    place = {"x": hottest["x"], "y": hottest["y"], "view": "effective", "format": "json"}
    field = builtin.post("/features", params={"model": "clothing", "layer": "stage3", **place}, content=LARGE).json()
    assert hottest["field"] == field["field"]
    assert hottest["field"]["effective"] is not None
    pictures = [
        builtin.post("/cam", params=query | {"field": how, "format": "png"}, content=LARGE).content
        for how in ("false", "true", "effective")
    ]
    assert len(set(pictures)) == 3


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("field=effective&layer=stage1%2Bstage2", "bad_parameter"),
        ("field=often", "bad_parameter"),
        ("field=effective&format=npy", "bad_parameter"),
        ("field=effective&layer=image&method=saliency", "method_unavailable"),
    ],
)
def test_invalid_requests_for_the_effective_field_are_rejected(builtin: httpx.Client, query: str, code: str) -> None:
    answer = builtin.post(f"/cam?model=cifar10&{query}", content=LARGE)
    assert answer.json()["code"] == code, answer.text
