"""`/features`: layers, statistics, arrays, embeddings and grids."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.photos import encoded, marked

DATA = encoded(marked((96, 128), (24, 32), 16))
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


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("layer=body", 404, "unknown_layer"),
        ("layer=colour&pool=min", 422, "bad_parameter"),
        ("layer=colour&format=png", 422, "bad_parameter"),
        ("layer=colour&view=grid&format=npy", 422, "bad_parameter"),
        ("layer=colour&view=grid&pool=avg", 422, "bad_parameter"),
        ("layer=colour&view=grid&channels=0", 422, "bad_parameter"),
    ],
)
def test_what_cannot_be_given_is_refused(client: httpx.Client, query: str, status: int, code: str) -> None:
    answer = client.post(f"/features?{query}", content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
