"""`GET /cam/{id}` and `GET /features/{id}`: further responses about an image that the client has sent once."""

import io
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.conftest import Server
from tests.photos import draw_marker, encode_photo

DATA = encode_photo(draw_marker((150, 110), (40, 30), 14))
MODEL = "model=classification-squeeze"


def post_image(client: httpx.Client, endpoint: str = "predict", query: str = MODEL) -> str:
    """Send the image; returns its id."""
    response = client.post(f"/{endpoint}?{query}", content=DATA)
    return response.json()["id"] if "json" in response.headers["content-type"] else response.headers["percept-id"]


@pytest.mark.parametrize("endpoint", ["predict", "cam"])
@pytest.mark.parametrize(
    "query", ["", "format=npy&size=photo", "target=blue&format=json", "view=heatmap", "method=rise"]
)
def test_cached_image_gives_the_response_of_a_sent_one(client: httpx.Client, endpoint: str, query: str) -> None:
    """Byte by byte, whichever endpoint returned the id, the first time and later."""
    sent = client.post(f"/cam?{MODEL}&{query}", content=DATA)
    id = post_image(client, endpoint)
    for _ in range(2):
        again = client.get(f"/cam/{id}?{query}")
        assert again.status_code == 200, again.text
        if "json" in again.headers["content-type"]:
            assert again.json() | {"id": ""} == sent.json() | {"id": ""}
            assert again.json()["id"] == id
        else:
            assert again.content == sent.content


def test_image_of_a_segmenter_is_cached(client: httpx.Client) -> None:
    id = post_image(client, query="model=segmentation-crop")
    response = client.get(f"/cam/{id}?x=75&y=50&format=json")
    assert response.json()["model"]["name"] == "segmentation-crop"


def test_response_has_a_strong_etag_and_may_be_cached(client: httpx.Client) -> None:
    id = post_image(client)
    first = client.get(f"/cam/{id}?target=red")
    tag = first.headers["etag"]
    assert tag.startswith('"')
    assert first.headers["cache-control"] == "private, max-age=600"
    same = client.get(f"/cam/{id}?target=red", headers={"if-none-match": f'"other", {tag}'})
    assert (same.status_code, same.content) == (304, b"")
    for other in (
        f"/cam/{id}?target=blue",
        f"/cam/{id}?target=red&format=png",
        f"/cam/{post_image(client)}?target=red",
    ):
        assert client.get(other, headers={"if-none-match": tag}).status_code == 200


def test_ids_are_long_and_distinct(client: httpx.Client) -> None:
    ids = {post_image(client) for _ in range(20)}
    assert len(ids) == 20
    assert min(map(len, ids)) >= 16


def test_unknown_id_is_a_problem_with_the_remedy(client: httpx.Client) -> None:
    response = client.get("/cam/nothing")
    assert (response.status_code, response.json()["code"]) == (404, "unknown_image")
    assert "post it again" in response.json()["detail"]


def test_model_of_a_cached_image_cannot_be_changed(client: httpx.Client) -> None:
    response = client.get(f"/cam/{post_image(client)}?{MODEL}")
    assert (response.status_code, response.json()["code"]) == (422, "bad_parameter")


def test_cache_can_be_disabled_or_small(start: Callable[..., Server], bundles: Path) -> None:
    off = start(bundles, PERCEPT_STORE_BYTES="0")
    response = off.client.get(f"/cam/{post_image(off.client)}")
    assert (response.status_code, response.json()["code"]) == (404, "unknown_image")
    small = start(bundles, PERCEPT_STORE_BYTES=str(2 * len(DATA) + 10))
    ids = [post_image(small.client) for _ in range(3)]
    assert [small.client.get(f"/cam/{id}").status_code for id in ids] == [404, 200, 200]


def test_methods_agree_on_a_cached_image(client: httpx.Client) -> None:
    id = post_image(client)
    maps = [np.load(io.BytesIO(client.get(f"/cam/{id}?format=npy&method={m}").content)) for m in ("cam", "gradcam")]
    np.testing.assert_allclose(maps[0], maps[1] * maps[0].size, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("query", ["", "layer=colour", "layer=colour&format=npy", "layer=colour&view=components"])
def test_features_of_a_cached_image_are_those_of_a_sent_one(client: httpx.Client, query: str) -> None:
    sent = client.post(f"/features?{MODEL}&{query}", content=DATA)
    again = client.get(f"/features/{post_image(client)}?{query}")
    assert again.status_code == 200, again.text
    if "json" in again.headers["content-type"]:
        assert again.json() | {"id": ""} == sent.json() | {"id": ""}
    else:
        assert again.content == sent.content
    if "etag" in again.headers:
        known = {"if-none-match": again.headers["etag"]}
        assert client.get(again.url, headers=known).status_code == 304
