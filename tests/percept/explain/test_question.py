"""What can be asked of `/cam` besides one map: several classes, differences, places, layers, sheets and boxes."""

import asyncio
import io
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from percept.explain.methods.table import METHODS
from tests.conftest import Server
from tests.photos import draw_marker, encode_photo

RED, BLUE = (255, 0, 0), (0, 0, 255)
CLASSIFIER, SEGMENTER = "/cam?model=classification-squeeze", "/cam?model=segmentation-squeeze"


def two() -> bytes:
    """A red square at the left, a smaller blue one at the right, on white."""
    photo = draw_marker((150, 110), (40, 30), 16, RED)
    photo.paste(BLUE, (100, 70, 120, 90))
    return encode_photo(photo)


DATA = two()


def ask(client: httpx.Client, url: str, status: int = 200) -> dict:
    answer = client.post(f"{url}&format=json", content=DATA)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_several_targets_give_a_map_each_in_order(client: httpx.Client) -> None:
    results = ask(client, f"{CLASSIFIER}&target=blue&target=red")["results"]
    assert [one["target"]["label"] for one in results] == ["blue", "red"]
    assert results[0]["peak"]["x"] == pytest.approx(110, abs=13)
    assert results[1]["peak"]["x"] == pytest.approx(40, abs=13)
    assert len({one["id"] for one in results}) == 1
    alone = ask(client, f"{CLASSIFIER}&target=blue")
    assert alone["raw"] == results[0]["raw"]


def test_the_top_classes_come_by_their_score(client: httpx.Client) -> None:
    results = ask(client, f"{CLASSIFIER}&top=3")["results"]
    assert [one["target"]["label"] for one in results] == ["red", "blue", "green"]


def test_several_maps_are_one_array(client: httpx.Client) -> None:
    answer = client.post(f"{CLASSIFIER}&target=blue&target=red&format=npy", content=DATA)
    both = np.load(io.BytesIO(answer.content))
    one = np.load(io.BytesIO(client.post(f"{CLASSIFIER}&target=red&format=npy", content=DATA).content))
    assert both.shape == (2, *one.shape)
    np.testing.assert_allclose(both[1], one)


def test_a_difference_of_classes_is_hot_where_the_one_and_cold_where_the_other_is(client: httpx.Client) -> None:
    found = ask(client, f"{CLASSIFIER}&target=blue&against=red&method=hirescam")
    assert (found["target"]["label"], found["target"]["against"]) == ("blue", "red")
    assert found["raw"]["minimum"] < 0 < found["raw"]["maximum"]
    assert found["peak"]["x"] == pytest.approx(110, abs=13)


def test_a_clicked_pixel_is_explained_as_what_it_was_predicted(client: httpx.Client) -> None:
    for x, y, label in ((40, 30, "red"), (110, 80, "blue"), (10, 100, "ground")):
        assert ask(client, f"{SEGMENTER}&x={x}&y={y}")["target"]["label"] == label
    found = ask(client, f"{SEGMENTER}&x=40&y=30&target=red&method=hirescam")
    assert found["peak"]["x"] == pytest.approx(40, abs=13)


def test_a_rectangle_is_explained_where_it_lies(client: httpx.Client) -> None:
    found = ask(client, f"{SEGMENTER}&region=90,60,130,100&target=blue&method=hirescam")
    assert found["peak"]["x"] == pytest.approx(110, abs=13)
    assert found["peak"]["y"] == pytest.approx(80, abs=13)


def test_boxes_lie_around_what_is_hot(client: httpx.Client) -> None:
    for rule in ("0.5", "otsu"):
        found = ask(client, f"{CLASSIFIER}&target=blue&method=hirescam&boxes={rule}")["regions"]
        assert len(found) == 1
        box = found[0]
        assert box["left"] <= 110 <= box["right"]
        assert box["top"] <= 80 <= box["bottom"]
        assert box["right"] - box["left"] < 60
        assert box["mass"] > 0.5
    assert ask(client, CLASSIFIER)["regions"] is None


def test_fused_layers_are_one_map(client: httpx.Client) -> None:
    found = ask(client, f"{CLASSIFIER}&layer=colour%2Bcolour")
    assert found["layer"] == "colour+colour"
    assert found["peak"] == ask(client, CLASSIFIER)["peak"]
    assert ask(client, f"{CLASSIFIER}&layer=colour+colour")["layer"] == "colour+colour"
    assert len(ask(client, f"{CLASSIFIER}&layer=colour&layer=colour")["results"]) == 2


@pytest.mark.parametrize("by", ["methods", "classes", "layers"])
def test_a_sheet_is_a_picture_of_many(client: httpx.Client, by: str) -> None:
    answer = client.post(f"{CLASSIFIER}&view=sheet&by={by}", content=DATA)
    assert answer.status_code == 200, answer.text
    sheet = Image.open(io.BytesIO(answer.content))
    assert sheet.format == "JPEG"
    assert sheet.width > 150


def test_a_legend_is_drawn_below(client: httpx.Client) -> None:
    plain = Image.open(io.BytesIO(client.post(CLASSIFIER, content=DATA).content))
    told = Image.open(io.BytesIO(client.post(f"{CLASSIFIER}&legend=true", content=DATA).content))
    assert told.width >= plain.width
    assert told.height > plain.height


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("url", [CLASSIFIER, SEGMENTER], ids=["classifier", "segmenter"])
def test_every_method_is_served_or_says_why_not(client: httpx.Client, method: str, url: str) -> None:
    """What `GET /models/{name}` says of a method is what `/cam` does."""
    model = client.get(f"/models/{url.split('=')[1]}").json()
    layer = model["layers"][0]
    answer = client.post(f"{url}&method={method}&target=blue&format=json", content=DATA)
    if method in layer["methods"]:
        assert answer.status_code == 200, answer.text
        assert answer.json()["method"] == method
        assert np.isfinite([answer.json()["raw"]["minimum"], answer.json()["raw"]["maximum"]]).all()
    else:
        assert answer.status_code == 422
        assert answer.json()["detail"] == layer["unavailable_methods"][method]


def test_cam_needs_a_linear_head(client: httpx.Client) -> None:
    """The marker classifier has one; its segmenter has cells instead."""
    assert "cam" in client.get("/models/classification-squeeze").json()["layers"][0]["methods"]
    assert "cam" in client.get("/models/segmentation-squeeze").json()["layers"][0]["unavailable_methods"]
    raw = [
        np.load(io.BytesIO(client.post(f"{CLASSIFIER}&method={m}&format=npy", content=DATA).content))
        for m in ("cam", "gradcam", "hirescam")
    ]
    np.testing.assert_allclose(raw[0], raw[1] * raw[0].size, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(raw[1], raw[2], rtol=1e-4, atol=1e-8)


def test_without_a_tail_only_methods_that_need_none_work(client: httpx.Client) -> None:
    layer = client.get("/models/no-gradients").json()["layers"][0]
    assert set(layer["methods"]) == {name for name, m in METHODS.items() if m.needs in ("activations", "image")}
    assert client.post("/cam?model=no-gradients&method=eigencam", content=DATA).status_code == 200
    answer = client.post("/cam?model=no-gradients", content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (422, "gradients_unavailable")


BAD = [
    (f"{CLASSIFIER}&x=1&y=1", "bad_parameter"),
    (f"{SEGMENTER}&x=1", "bad_parameter"),
    (f"{SEGMENTER}&x=1&y=1&region=0,0,1,1", "bad_parameter"),
    (f"{SEGMENTER}&region=5,5,1,9", "bad_parameter"),
    (f"{SEGMENTER}&region=1,2,3", "bad_parameter"),
    (f"{SEGMENTER}&x=1e9&y=1", "bad_parameter"),
    (f"{SEGMENTER}&x=1e308&y=1e308", "bad_parameter"),
    (f"{SEGMENTER}&x=inf&y=1", "bad_parameter"),
    (f"{SEGMENTER}&x=nan&y=1", "bad_parameter"),
    (f"{SEGMENTER}&region=0,0,{'9' * 400},5", "bad_parameter"),
    (f"{CLASSIFIER}&view=sheet", "bad_parameter"),
    (f"{CLASSIFIER}&by=methods", "bad_parameter"),
    (f"{CLASSIFIER}&boxes=1.5", "bad_parameter"),
    (f"{CLASSIFIER}&boxes=many", "bad_parameter"),
    (f"{CLASSIFIER}&top=0", "bad_parameter"),
    (f"{CLASSIFIER}&against=purple", "unknown_class"),
    (f"{CLASSIFIER}&target=red&target=purple", "unknown_class"),
    (f"{CLASSIFIER}&layer=colour%2Babsent", "unknown_layer"),
    (f"{CLASSIFIER}&layer=", "unknown_layer"),
    (f"{SEGMENTER}&method=cam", "method_unavailable"),
    (f"{CLASSIFIER}&{'&'.join(['target=red'] * 70)}", "bad_parameter"),
]


@pytest.mark.parametrize(("url", "code"), BAD)
def test_a_bad_question_is_a_problem_with_a_name(client: httpx.Client, url: str, code: str) -> None:
    answer = client.post(url, content=DATA)
    assert answer.json()["code"] == code, answer.text
    assert 400 <= answer.status_code < 500


def test_a_pixel_that_was_not_seen_cannot_be_explained(client: httpx.Client) -> None:
    """A centre crop leaves the sides of a wide photo out."""
    wide = encode_photo(draw_marker((300, 80), (150, 40), 10, RED))
    answer = client.post("/cam?model=segmentation-crop&x=2&y=40", content=wide)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
    assert "did not see" in answer.json()["detail"]


def test_a_slow_method_ends_at_the_deadline(start: Callable[..., Server], bundles: Path) -> None:
    hasty = start(bundles, PERCEPT_DEADLINE_S="0.005")
    answer = hasty.client.post(f"{CLASSIFIER}&method=rise", content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert hasty.client.get("/health/ready").status_code == 200


def test_a_slow_method_does_not_hold_up_a_prediction(server: Server) -> None:
    """Each prediction waits for one batch at most, however many passes a method makes: many come in between."""

    async def race() -> int:
        async with httpx.AsyncClient(base_url=server.client.base_url, timeout=60) as http:
            slow = asyncio.create_task(http.post(f"{CLASSIFIER}&method=rise&top=3", content=DATA))
            between = 0
            while not slow.done():
                (await http.post("/predict?model=classification-squeeze", content=DATA)).raise_for_status()
                between += 1
            assert slow.result().status_code == 200
            return between

    assert asyncio.run(race()) >= 3


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam", "eigencam", "reciprocam", "ablationcam"])
def test_a_photo_moved_by_a_stride_moves_the_map_by_a_cell(client: httpx.Client, method: str) -> None:
    """The bundle takes 48 x 64 pixels in cells of 4: the photo is not scaled."""
    maps = []
    for x, y in ((20, 24), (24, 32)):
        photo = draw_marker((48, 64), (x, y), 6, RED)
        answer = client.post(f"{CLASSIFIER}&format=npy&target=red&method={method}", content=encode_photo(photo))
        maps.append(np.load(io.BytesIO(answer.content)))
    assert maps[0].any()
    np.testing.assert_allclose(np.roll(maps[0], (2, 1), (0, 1)), maps[1], rtol=1e-4, atol=1e-6)
