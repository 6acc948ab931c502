"""The hottest cell of a map, and the rectangle of the photo that it can see: in numbers and in pictures."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from percept.explain.methods import METHODS
from percept.imaging.overlay import FIELD, HOTTEST
from tests.bundles import bundle, read_manifest, write_manifest
from tests.photos import encoded, marked

# The bundles take 48 x 64 pixels in cells of 4 that see 4 x 4; nothing is scaled, and one cell alone is red.
PHOTO = marked((48, 64), (22, 42), 2)
DATA = encoded(PHOTO)
URL = "/cam?model=classification-squeeze&target=red"
SIDES = ("left", "top", "right", "bottom")


def peak(client: httpx.Client, query: str = "", data: bytes = DATA) -> dict | None:
    answer = client.post(f"{URL}{query}&format=json", content=data)
    assert answer.status_code == 200, answer.text
    return answer.json()["peak"]


def drawn(client: httpx.Client, query: str = "", data: bytes = DATA) -> np.ndarray:
    answer = client.post(f"{URL}{query}", content=data)
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))


def test_the_hottest_cell_sees_where_it_lies(client: httpx.Client) -> None:
    field = peak(client)["field"]
    assert field == {"cell": [10, 5], "left": 20, "top": 40, "right": 24, "bottom": 44, "whole": False}


def test_it_is_the_field_that_features_give_under_the_peak(client: httpx.Client) -> None:
    for rule in ("squeeze", "crop", "pad"):
        for size in ((150, 110), (90, 200)):
            data = encoded(marked(size, (size[0] / 2, size[1] / 2), 12))
            found = client.post(f"/cam?model=classification-{rule}&target=red&format=json", content=data).json()
            x, y = found["peak"]["x"], found["peak"]["y"]
            url = f"/features?model=classification-{rule}&layer=colour&x={x}&y={y}"
            assert found["peak"]["field"] == client.post(url, content=data).json()["field"]


@pytest.mark.parametrize("method", METHODS)
def test_whatever_the_method_it_is_a_cell_of_the_layer(client: httpx.Client, method: str) -> None:
    answer = client.post(f"{URL}&method={method.replace('+', '%2B')}&format=json", content=DATA)
    if answer.status_code != 200:
        assert answer.json()["code"] == "method_unavailable"
        return
    if answer.json()["peak"]:
        row, column = answer.json()["peak"]["field"]["cell"]
        assert (row, column) < tuple(answer.json()["shape"])


def test_a_blank_photo_has_no_peak_and_no_outline(client: httpx.Client) -> None:
    blank = encoded(Image.new("RGB", (48, 64), (128, 128, 128)))
    assert peak(client, data=blank) is None
    np.testing.assert_array_equal(
        drawn(client, "&format=png&field=true", blank), drawn(client, "&format=png&field=false", blank)
    )


@pytest.fixture(scope="module")
def built_in(start) -> httpx.Client:
    return start().client


def test_layers_that_are_fused_have_no_field(built_in: httpx.Client) -> None:
    layers = [layer["name"] for layer in built_in.get("/models/cifar10").json()["layers"]][-2:]
    data = encoded(marked((60, 60), (20, 20), 9))

    def peak(layer: str) -> dict:
        return built_in.post(f"/cam?format=json&layer={layer}", content=data).json()["peak"]

    assert peak("%2B".join(layers))["field"] is None
    assert all(peak(layer)["field"] for layer in layers)
    assert peak(f"{layers[0]}%2B{layers[0]}")["field"] == peak(layers[0])["field"]
    marked_ = built_in.post(f"/cam?format=png&field=true&layer={'%2B'.join(layers)}", content=data)
    pixels = np.asarray(Image.open(io.BytesIO(marked_.content))).reshape(-1, 3).tolist()
    assert list(HOTTEST) in pixels
    assert list(FIELD) not in pixels, "a cell has its place, what it saw is not known"


@pytest.mark.parametrize("view", ["overlay", "heatmap"])
def test_the_cell_and_what_it_sees_are_outlined_and_the_rest_is_as_it_was(client: httpx.Client, view: str) -> None:
    plain = drawn(client, f"&format=png&view={view}")
    found = drawn(client, f"&format=png&view={view}&field=true")
    assert found.shape == plain.shape
    np.testing.assert_array_equal(found[40:44, 20:24], plain[40:44, 20:24])
    assert found[39, 20:24].tolist() == [[*HOTTEST, 255]] * 4
    outside = np.ones(found.shape[:2], bool)
    outside[38:46, 18:26] = False
    np.testing.assert_array_equal(found[outside], plain[outside])


def test_a_large_field_is_outlined_where_it_ends(start, tmp_path) -> None:
    folder = bundle(tmp_path, height=64, width=48)
    manifest = read_manifest(folder)
    manifest["layers"][0]["receptive_field"]["size"] = [20, 12]
    write_manifest(folder, manifest)
    client = start(tmp_path).client
    field = client.post("/cam?format=json&target=red", content=DATA).json()["peak"]["field"]
    assert [field[side] for side in SIDES] == [16, 32, 28, 52]
    answer = client.post("/cam?format=png&target=red&field=true", content=DATA)
    found = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert found[31, 16:28].tolist() == found[52, 16:28].tolist() == [[*FIELD]] * 12
    assert found[32:52, 15].tolist() == found[32:52, 28].tolist() == [[*FIELD]] * 20
    assert found[30, 16:28].max() == 0


def test_a_heatmap_keeps_what_was_not_seen_transparent_and_is_grey_there_as_jpeg(client: httpx.Client) -> None:
    data = encoded(marked((130, 70), (65, 35), 10))
    url = "/cam?model=classification-crop&target=red&view=heatmap&field=true&format="
    for name in ("png", "webp"):
        found = Image.open(io.BytesIO(client.post(url + name, content=data).content)).convert("RGBA")
        assert found.getpixel((3, 3))[3] == 0
    grey = Image.open(io.BytesIO(client.post(url + "jpeg", content=data).content))
    assert grey.mode == "RGB"
    assert grey.getpixel((3, 3)) == pytest.approx((128, 128, 128), abs=2)


@pytest.mark.parametrize("query", ["&view=sheet&by=classes", "&legend=true", "&target=blue", "&view=heatmap&top=1"])
def test_every_picture_can_have_the_outline(client: httpx.Client, query: str) -> None:
    plain, found = (drawn(client, f"{query}&format=png{more}") for more in ("", "&field=true"))
    assert plain.shape == found.shape
    assert (plain != found).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 2), (2000, 3)])
@pytest.mark.parametrize("rule", ["squeeze", "crop", "pad"])
def test_photos_of_any_shape_can_have_the_outline(client: httpx.Client, rule: str, size: tuple[int, int]) -> None:
    data = encoded(Image.new("RGB", size, (255, 0, 0)))
    for url in (f"/cam?model=classification-{rule}", f"/cam?model=classification-{rule}&view=heatmap"):
        answer = client.post(f"{url}&field=true&format=png", content=data)
        assert answer.status_code == 200, answer.text
        assert Image.open(io.BytesIO(answer.content)).size == size
    url = f"/features?model=classification-{rule}&layer=colour&view=field&x={size[0] / 2}&y={size[1] / 2}"
    assert client.post(url, content=data).status_code == 200


def test_an_array_has_no_outline(client: httpx.Client) -> None:
    answer = client.post(f"{URL}&field=true&format=npy", content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
    assert "field is for format=jpeg|png|webp|multipart|zip|json, not for format=npy" in answer.json()["detail"]
