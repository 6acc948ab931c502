"""`/features`: layers, statistics, arrays, embeddings, pictures and receptive fields."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.bundles import create_bundle, read_manifest_json, write_manifest
from tests.photos import draw_marker, encode_photo

DATA = encode_photo(draw_marker((96, 128), (24, 32), 16))
URL = "/features?model=classification-squeeze&layer=colour"


def array(answer: httpx.Response) -> np.ndarray:
    assert answer.headers["content-type"] == "application/x-npy"
    return np.load(io.BytesIO(answer.content), allow_pickle=False)


def test_without_a_layer_the_layers_are_listed_and_no_image_is_needed(client: httpx.Client) -> None:
    expected = {
        "name": "colour",
        "shape": [3, 16, 12],
        "stride": [4, 4],
        "dilation": [1, 1],
        "receptive_field": {"size": [4, 4], "start": [2, 2]},
        "gradients": True,
    }
    for body in (DATA, b""):
        answer = client.post("/features?model=classification-squeeze", content=body).json()
        assert answer["layers"] == [expected]


def test_a_layer_without_gradients_says_why(client: httpx.Client) -> None:
    layer = client.post("/features?model=no-gradients").json()["layers"][0]
    assert (layer["gradients"], layer["unavailable"]) == (False, "no rule for Colour")


def test_the_map_comes_as_float32_with_the_marker_where_it_is(client: httpx.Client) -> None:
    for answer in (
        client.post(URL + "&format=npy", content=DATA),
        client.post(URL, content=DATA, headers={"accept": "application/x-npy"}),
    ):
        A = array(answer)
        assert (A.dtype, A.shape) == (np.float32, (3, 16, 12))
        assert A[0, 4, 3] == pytest.approx(1)
        assert A[0, 12, 9] == pytest.approx(0, abs=1e-6)


def test_statistics_are_those_of_the_map(client: httpx.Client) -> None:
    A = array(client.post(URL + "&format=npy", content=DATA))
    answer = client.post(URL, content=DATA).json()
    assert answer["image"] == {"width": 96, "height": 128}
    for k, channel in enumerate(answer["channels"]):
        assert channel["index"] == k
        expected = [A[k].mean(), A[k].std(), A[k].min(), A[k].max(), (A[k] > 0).mean()]
        found = [channel[name] for name in ("mean", "std", "minimum", "maximum", "active")]
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_an_embedding_is_the_pooled_map(client: httpx.Client, pool: str) -> None:
    A = array(client.post(URL + "&format=npy", content=DATA))
    expected = A.mean((1, 2)) if pool == "avg" else A.max((1, 2))
    answer = client.post(f"{URL}&pool={pool}", content=DATA).json()
    assert answer["embedding"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert array(client.post(f"{URL}&pool={pool}&format=npy", content=DATA)) == pytest.approx(expected)


def test_a_grid_is_a_picture(client: httpx.Client) -> None:
    answer = client.post(URL + "&view=grid&channels=2", content=DATA)
    assert answer.headers["content-type"] == "image/png"
    sheet = Image.open(io.BytesIO(answer.content))
    assert min(sheet.size) > 90


SIZED = {
    "components": "view=components",
    "channel": "view=channel&channel=0",
    "field": "view=field&x=50&y=60",
}


def drawn(client: httpx.Client, query: str, rule: str = "squeeze", data: bytes = DATA) -> Image.Image:
    answer = client.post(f"/features?model=classification-{rule}&layer=colour&{query}", content=data)
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


@pytest.mark.parametrize("size", [(96, 128), (130, 70)])
@pytest.mark.parametrize("rule", ["squeeze", "crop", "pad"])
@pytest.mark.parametrize("query", SIZED.values(), ids=SIZED)
def test_pictures_over_the_photo_are_as_large_as_it(
    client: httpx.Client, query: str, rule: str, size: tuple[int, int]
) -> None:
    data = encode_photo(draw_marker(size, (50, 35), 10))
    for kind in ("jpeg", "png", "webp"):
        found = drawn(client, f"{query}&format={kind}", rule, data)
        assert (found.size, found.format) == (size, kind.upper())


def test_components_show_the_marker_where_it_is_and_what_was_not_seen_is_grey(client: httpx.Client) -> None:
    found = np.asarray(drawn(client, "view=components&format=png"))
    assert found[32, 24, 0] == 255
    assert found[100, 70, 0] < 20
    assert not found[..., 1:].any(), "white and grey are nothing, so that one component is all"
    wide = encode_photo(draw_marker((130, 70), (65, 35), 10))
    cut = np.asarray(drawn(client, "view=components&format=png", "crop", wide))
    assert (cut[:, 0] == 128).all()


def test_a_channel_is_hot_where_the_marker_is_and_stretched_to_its_own_range(client: httpx.Client) -> None:
    found = np.asarray(drawn(client, "view=channel&channel=0&colormap=gray").convert("RGB"))
    assert found[32, 24].tolist() == [255] * 3
    assert found[100, 70].max() < 5
    flat = np.asarray(drawn(client, "view=channel&channel=1&colormap=gray").convert("RGB"))
    assert np.ptp(flat) < 5


@pytest.mark.parametrize(
    ("rule", "cell", "box"),
    [
        ("squeeze", [4, 3], [24, 32, 32, 40]),
        # A photo of 130 x 70 is 133 x 72 at the short side 72, of which 48 x 64 from (42, 4) on are seen.
        ("crop", [8, 6], [66 * 130 / 133, 35, 70 * 130 / 133, 35 + 4 * 70 / 72]),
        # Padded it is 48 wide by 130 / 48 pixels each, and its middle stays the middle.
        ("pad", [8, 6], [65, 35, 65 + 4 * 130 / 48, 35 + 4 * 130 / 48]),
    ],
)
def test_a_field_is_where_the_cell_looks(client: httpx.Client, rule: str, cell: list[int], box: list[float]) -> None:
    data = DATA if rule == "squeeze" else encode_photo(draw_marker((130, 70), (65, 35), 10))
    url = f"/features?model=classification-{rule}&layer=colour&format=json&x={box[0] + 1}&y={box[1] + 1}"
    for query in ("", "&view=field"):
        field = client.post(url + query, content=data).json()["field"]
        assert (field["cell"], field["whole"]) == (cell, False)
        assert [field[side] for side in ("left", "top", "right", "bottom")] == pytest.approx(box)


def test_a_field_is_bright_and_all_around_is_dark(client: httpx.Client) -> None:
    found = np.asarray(drawn(client, "view=field&x=25&y=33&format=png"))
    photo = np.asarray(Image.open(io.BytesIO(DATA)))
    np.testing.assert_array_equal(found[32:40, 24:32], photo[32:40, 24:32])
    np.testing.assert_allclose(found[60:], photo[60:] * 0.35, atol=1)
    assert found[31, 24:32].tolist() == [[255, 214, 10]] * 8


def test_a_layer_without_a_receptive_field_sees_the_whole_photo(start, tmp_path) -> None:
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
def test_what_the_network_did_not_see_has_no_field(client: httpx.Client, rule: str, place: str) -> None:
    for query in ("view=field", "format=json"):
        answer = client.post(f"/features?model=classification-{rule}&layer=colour&{place}&{query}", content=DATA)
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
        assert "did not see" in answer.json()["detail"]


def test_a_channel_that_there_is_not_is_refused_with_how_many_there_are(client: httpx.Client) -> None:
    for channel in (3, -1):
        answer = client.post(f"{URL}&view=channel&channel={channel}", content=DATA)
        assert answer.json()["detail"] == "layer 'colour' has 3 channels, 0 to 2"


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
def test_what_cannot_be_given_is_refused(client: httpx.Client, query: str, status: int, code: str) -> None:
    answer = client.post(f"/features?{query}", content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
