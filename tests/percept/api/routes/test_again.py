"""`GET /cam/{id}`: an image is looked at again without being sent again."""

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


def kept(client: httpx.Client, endpoint: str = "predict", query: str = MODEL) -> str:
    answer = client.post(f"/{endpoint}?{query}", content=DATA)
    return answer.json()["id"] if "json" in answer.headers["content-type"] else answer.headers["percept-id"]


@pytest.mark.parametrize("endpoint", ["predict", "cam"])
@pytest.mark.parametrize(
    "query", ["", "format=npy&size=photo", "target=blue&format=json", "view=heatmap", "method=rise"]
)
def test_the_same_is_seen_as_when_the_image_is_sent(client: httpx.Client, endpoint: str, query: str) -> None:
    """Byte by byte, whoever gave the id, the first time and later."""
    sent = client.post(f"/cam?{MODEL}&{query}", content=DATA)
    id = kept(client, endpoint)
    for _ in range(2):
        again = client.get(f"/cam/{id}?{query}")
        assert again.status_code == 200, again.text
        if "json" in again.headers["content-type"]:
            assert again.json() | {"id": ""} == sent.json() | {"id": ""}
            assert again.json()["id"] == id
        else:
            assert again.content == sent.content


def test_a_segmenters_image_is_kept_too(client: httpx.Client) -> None:
    id = kept(client, query="model=segmentation-crop")
    answer = client.get(f"/cam/{id}?x=75&y=50&format=json")
    assert answer.json()["model"]["name"] == "segmentation-crop"


def test_an_answer_has_a_strong_tag_and_may_be_kept_by_the_client(client: httpx.Client) -> None:
    id = kept(client)
    first = client.get(f"/cam/{id}?target=red")
    tag = first.headers["etag"]
    assert tag.startswith('"')
    assert first.headers["cache-control"] == "private, max-age=600"
    same = client.get(f"/cam/{id}?target=red", headers={"if-none-match": f'"other", {tag}'})
    assert (same.status_code, same.content) == (304, b"")
    for other in (f"/cam/{id}?target=blue", f"/cam/{id}?target=red&format=png", f"/cam/{kept(client)}?target=red"):
        assert client.get(other, headers={"if-none-match": tag}).status_code == 200


def test_ids_cannot_be_guessed(client: httpx.Client) -> None:
    ids = {kept(client) for _ in range(20)}
    assert len(ids) == 20
    assert min(map(len, ids)) >= 16


def test_an_unknown_id_is_a_problem_that_says_what_to_do(client: httpx.Client) -> None:
    answer = client.get("/cam/nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_image")
    assert "post it again" in answer.json()["detail"]


def test_another_model_cannot_be_asked_about_a_kept_image(client: httpx.Client) -> None:
    answer = client.get(f"/cam/{kept(client)}?{MODEL}")
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")


def test_the_store_can_be_switched_off_or_be_short(start: Callable[..., Server], bundles: Path) -> None:
    off = start(bundles, PERCEPT_STORE_BYTES="0")
    answer = off.client.get(f"/cam/{kept(off.client)}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_image")
    small = start(bundles, PERCEPT_STORE_BYTES=str(2 * len(DATA) + 10))
    ids = [kept(small.client) for _ in range(3)]
    assert [small.client.get(f"/cam/{id}").status_code for id in ids] == [404, 200, 200]


def test_a_second_look_gives_the_raw_map_of_the_first(client: httpx.Client) -> None:
    id = kept(client)
    maps = [np.load(io.BytesIO(client.get(f"/cam/{id}?format=npy&method={m}").content)) for m in ("cam", "gradcam")]
    np.testing.assert_allclose(maps[0], maps[1] * maps[0].size, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("query", ["", "layer=colour", "layer=colour&format=npy", "layer=colour&view=components"])
def test_features_are_the_same_as_when_the_image_is_sent(client: httpx.Client, query: str) -> None:
    sent = client.post(f"/features?{MODEL}&{query}", content=DATA)
    again = client.get(f"/features/{kept(client)}?{query}")
    assert again.status_code == 200, again.text
    if "json" in again.headers["content-type"]:
        assert again.json() | {"id": ""} == sent.json() | {"id": ""}
    else:
        assert again.content == sent.content
    if "etag" in again.headers:
        known = {"if-none-match": again.headers["etag"]}
        assert client.get(again.url, headers=known).status_code == 304
