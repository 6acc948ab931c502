"""`POST /features`: layers, statistics, arrays, embeddings, pictures and receptive fields."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.bundles import create_bundle, read_manifest_json, write_manifest
from tests.photos import draw_marker, encode_photo

DATA = encode_photo(draw_marker((96, 128), (24, 32), 16))
URL = "/features?model=classification-squeeze&layer=colour"


def load_array(response: httpx.Response) -> np.ndarray:
    assert response.headers["content-type"] == "application/x-npy"
    return np.load(io.BytesIO(response.content), allow_pickle=False)


def test_layers_are_listed_without_an_image(client: httpx.Client) -> None:
    expected = {
        "name": "colour",
        "aliases": [],
        "layout": "NCHW",
        "shape": [3, 16, 12],
        "stride": [4, 4],
        "dilation": [1, 1],
        "receptive_field": {"size": [4, 4], "start": [2, 2]},
        "gradients": True,
    }
    for body in (DATA, b""):
        response = client.post("/features?model=classification-squeeze", content=body).json()
        assert response["layers"] == [expected]


def test_layer_without_gradients_states_the_reason(client: httpx.Client) -> None:
    layer = client.post("/features?model=no-gradients").json()["layers"][0]
    assert (layer["gradients"], layer["unavailable"]) == (False, "no rule for Colour")


def test_npy_is_the_float32_map_of_the_layer(client: httpx.Client) -> None:
    for response in (
        client.post(URL + "&format=npy", content=DATA),
        client.post(URL, content=DATA, headers={"accept": "application/x-npy"}),
    ):
        A = load_array(response)
        assert (A.dtype, A.shape) == (np.float32, (3, 16, 12))
        assert A[0, 4, 3] == pytest.approx(1)
        assert A[0, 12, 9] == pytest.approx(0, abs=1e-6)


def test_statistics_are_those_of_the_map(client: httpx.Client) -> None:
    A = load_array(client.post(URL + "&format=npy", content=DATA))
    response = client.post(URL, content=DATA).json()
    assert response["image"] == {"width": 96, "height": 128}
    for k, channel in enumerate(response["channels"]):
        assert channel["index"] == k
        expected = [A[k].mean(), A[k].std(), A[k].min(), A[k].max(), (A[k] > 0).mean()]
        found = [channel[name] for name in ("mean", "std", "minimum", "maximum", "active")]
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_embedding_is_the_pooled_map(client: httpx.Client, pool: str) -> None:
    A = load_array(client.post(URL + "&format=npy", content=DATA))
    expected = A.mean((1, 2)) if pool == "avg" else A.max((1, 2))
    response = client.post(f"{URL}&pool={pool}", content=DATA).json()
    assert response["embedding"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert load_array(client.post(f"{URL}&pool={pool}&format=npy", content=DATA)) == pytest.approx(expected)


def test_grid_is_a_png(client: httpx.Client) -> None:
    response = client.post(URL + "&view=grid&channels=2", content=DATA)
    assert response.headers["content-type"] == "image/png"
    sheet = Image.open(io.BytesIO(response.content))
    assert min(sheet.size) > 90


PHOTO_SIZED_VIEWS = {
    "components": "view=components",
    "channel": "view=channel&channel=0",
    "field": "view=field&x=50&y=60",
}


def fetch_picture(client: httpx.Client, query: str, rule: str = "squeeze", data: bytes = DATA) -> Image.Image:
    response = client.post(f"/features?model=classification-{rule}&layer=colour&{query}", content=data)
    assert response.status_code == 200, response.text
    return Image.open(io.BytesIO(response.content))


@pytest.mark.parametrize("size", [(96, 128), (130, 70)])
@pytest.mark.parametrize("rule", ["squeeze", "crop", "pad"])
@pytest.mark.parametrize("query", PHOTO_SIZED_VIEWS.values(), ids=PHOTO_SIZED_VIEWS)
def test_picture_over_the_photo_has_its_size(
    client: httpx.Client, query: str, rule: str, size: tuple[int, int]
) -> None:
    data = encode_photo(draw_marker(size, (50, 35), 10))
    for kind in ("jpeg", "png", "webp"):
        found = fetch_picture(client, f"{query}&format={kind}", rule, data)
        assert (found.size, found.format) == (size, kind.upper())


def test_components_show_the_marker_and_unseen_pixels_grey(client: httpx.Client) -> None:
    found = np.asarray(fetch_picture(client, "view=components&format=png"))
    assert found[32, 24, 0] == 255
    assert found[100, 70, 0] < 20
    assert not found[..., 1:].any(), "white and grey activate no channel, so there is one component"
    wide = encode_photo(draw_marker((130, 70), (65, 35), 10))
    cut = np.asarray(fetch_picture(client, "view=components&format=png", "crop", wide))
    assert (cut[:, 0] == 128).all()


def test_channel_is_scaled_to_its_own_range(client: httpx.Client) -> None:
    found = np.asarray(fetch_picture(client, "view=channel&channel=0&colormap=gray").convert("RGB"))
    assert found[32, 24].tolist() == [255] * 3
    assert found[100, 70].max() < 5
    flat = np.asarray(fetch_picture(client, "view=channel&channel=1&colormap=gray").convert("RGB"))
    assert np.ptp(flat) < 5


@pytest.mark.parametrize(
    ("rule", "cell", "box"),
    [
        ("squeeze", [4, 3], [24, 32, 32, 40]),
        # A photo of 130 x 70 is resized to 133 x 72; the network sees 48 x 64 pixels of it, from (42, 4).
        ("crop", [8, 6], [66 * 130 / 133, 35, 70 * 130 / 133, 35 + 4 * 70 / 72]),
        # Padded, each of the 48 columns covers 130 / 48 pixels of the photo, whose centre stays the centre.
        ("pad", [8, 6], [65, 35, 65 + 4 * 130 / 48, 35 + 4 * 130 / 48]),
    ],
)
def test_field_is_the_receptive_field_of_the_cell(
    client: httpx.Client, rule: str, cell: list[int], box: list[float]
) -> None:
    data = DATA if rule == "squeeze" else encode_photo(draw_marker((130, 70), (65, 35), 10))
    url = f"/features?model=classification-{rule}&layer=colour&format=json&x={box[0] + 1}&y={box[1] + 1}"
    for query in ("", "&view=field"):
        field = client.post(url + query, content=data).json()["field"]
        assert (field["cell"], field["whole"]) == (cell, False)
        assert [field[side] for side in ("left", "top", "right", "bottom")] == pytest.approx(box)


def test_field_is_bright_and_its_surroundings_are_dark(client: httpx.Client) -> None:
    found = np.asarray(fetch_picture(client, "view=field&x=25&y=33&format=png"))
    photo = np.asarray(Image.open(io.BytesIO(DATA)))
    np.testing.assert_array_equal(found[32:40, 24:32], photo[32:40, 24:32])
    np.testing.assert_allclose(found[60:], photo[60:] * 0.35, atol=1)
    assert found[31, 24:32].tolist() == [[255, 214, 10]] * 8


def test_unbounded_receptive_field_is_the_whole_photo(start, tmp_path) -> None:
    folder = create_bundle(tmp_path)
    manifest = read_manifest_json(folder)
    manifest["layers"][0]["receptive_field"] = None
    write_manifest(folder, manifest)
    url = "/features?layer=colour&x=0&y=127.5"
    client = start(tmp_path).client
    field = client.post(url, content=DATA).json()["field"]
    assert field == {"cell": [7, 0], "left": 0, "top": 0, "right": 96, "bottom": 128, "whole": True}
    found = Image.open(io.BytesIO(client.post(url + "&view=field&format=png", content=DATA).content))
    inside = np.asarray(found)[10:-40, 10:-10]
    np.testing.assert_array_equal(inside, np.asarray(Image.open(io.BytesIO(DATA)))[10:-40, 10:-10])


@pytest.mark.parametrize(
    ("rule", "place"), [("squeeze", "x=96&y=5"), ("squeeze", "x=5&y=1.7e308"), ("crop", "x=5&y=1"), ("pad", "x=97&y=5")]
)
def test_field_of_an_unseen_point_is_a_problem(client: httpx.Client, rule: str, place: str) -> None:
    for query in ("view=field", "format=json"):
        response = client.post(f"/features?model=classification-{rule}&layer=colour&{place}&{query}", content=DATA)
        assert (response.status_code, response.json()["code"]) == (422, "bad_parameter")
        assert "does not see" in response.json()["detail"]


def test_unknown_channel_is_a_problem_with_their_number(client: httpx.Client) -> None:
    for channel in (3, -1):
        response = client.post(f"{URL}&view=channel&channel={channel}", content=DATA)
        assert response.json()["detail"] == "layer 'colour' has 3 channels, 0 to 2"


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("layer=body", 404, "unknown_layer"),
        ("layer=colour&pool=min", 422, "bad_parameter"),
        ("layer=colour&format=png", 422, "bad_parameter"),
        ("layer=colour&view=grid&format=npy", 422, "bad_parameter"),
        ("layer=colour&view=grid&pool=avg", 422, "bad_parameter"),
        ("layer=colour&view=grid&channels=0", 422, "bad_parameter"),
        ("layer=body&view=components", 404, "unknown_layer"),
        ("layer=body&view=channel&channel=0", 404, "unknown_layer"),
        ("layer=colour&view=components&pool=avg", 422, "bad_parameter"),
        ("layer=colour&view=components&format=json", 422, "bad_parameter"),
        ("layer=colour&view=channel", 422, "bad_parameter"),
        ("layer=colour&channel=0", 422, "bad_parameter"),
        ("layer=colour&view=grid&channel=0", 422, "bad_parameter"),
        ("layer=colour&view=field", 422, "bad_parameter"),
        ("layer=colour&view=field&x=1", 422, "bad_parameter"),
        ("layer=colour&view=field&x=nan&y=1", 422, "bad_parameter"),
        ("layer=colour&view=field&x=inf&y=1", 422, "bad_parameter"),
        ("layer=colour&view=field&x=-1&y=1", 422, "bad_parameter"),
        ("layer=colour&view=grid&x=1&y=1", 422, "bad_parameter"),
        ("layer=colour&format=npy&x=1&y=1", 422, "bad_parameter"),
    ],
)
def test_invalid_parameter_is_a_problem(client: httpx.Client, query: str, status: int, code: str) -> None:
    response = client.post(f"/features?{query}", content=DATA)
    assert (response.status_code, response.json()["code"]) == (status, code)
