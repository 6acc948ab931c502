"""The parameters of `POST /cam` for several maps, differences of classes, regions, fused layers, sheets and boxes."""

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


def draw_two_markers() -> bytes:
    """A red square on the left and a smaller blue one on the right."""
    photo = draw_marker((150, 110), (40, 30), 16, RED)
    photo.paste(BLUE, (100, 70, 120, 90))
    return encode_photo(photo)


DATA = draw_two_markers()


def post(client: httpx.Client, url: str, status: int = 200) -> dict:
    response = client.post(f"{url}&format=json", content=DATA)
    assert response.status_code == status, response.text
    return response.json()


def test_each_target_has_a_map_in_order(client: httpx.Client) -> None:
    results = post(client, f"{CLASSIFIER}&target=blue&target=red")["results"]
    assert [one["target"]["label"] for one in results] == ["blue", "red"]
    assert results[0]["peak"]["x"] == pytest.approx(110, abs=13)
    assert results[1]["peak"]["x"] == pytest.approx(40, abs=13)
    assert len({one["id"] for one in results}) == 1
    alone = post(client, f"{CLASSIFIER}&target=blue")
    assert alone["raw"] == results[0]["raw"]


def test_top_classes_are_sorted_by_score(client: httpx.Client) -> None:
    results = post(client, f"{CLASSIFIER}&top=3")["results"]
    assert [one["target"]["label"] for one in results] == ["red", "blue", "green"]


def test_several_maps_are_stacked_in_npy(client: httpx.Client) -> None:
    response = client.post(f"{CLASSIFIER}&target=blue&target=red&format=npy", content=DATA)
    both = np.load(io.BytesIO(response.content))
    one = np.load(io.BytesIO(client.post(f"{CLASSIFIER}&target=red&format=npy", content=DATA).content))
    assert both.shape == (2, *one.shape)
    np.testing.assert_allclose(both[1], one)


def test_difference_is_hot_only_at_the_target(client: httpx.Client) -> None:
    found = post(client, f"{CLASSIFIER}&target=blue&against=red&method=hirescam")
    assert (found["target"]["label"], found["target"]["against"]) == ("blue", "red")
    assert found["raw"]["minimum"] < 0 < found["raw"]["maximum"]
    assert found["peak"]["x"] == pytest.approx(110, abs=13)


def test_point_is_explained_as_its_predicted_class(client: httpx.Client) -> None:
    for x, y, label in ((40, 30, "red"), (110, 80, "blue"), (10, 100, "ground")):
        assert post(client, f"{SEGMENTER}&x={x}&y={y}")["target"]["label"] == label
    found = post(client, f"{SEGMENTER}&x=40&y=30&target=red&method=hirescam")
    assert found["peak"]["x"] == pytest.approx(40, abs=13)


def test_map_of_a_region_is_hot_there(client: httpx.Client) -> None:
    found = post(client, f"{SEGMENTER}&region=90,60,130,100&target=blue&method=hirescam")
    assert found["peak"]["x"] == pytest.approx(110, abs=13)
    assert found["peak"]["y"] == pytest.approx(80, abs=13)


def test_boxes_enclose_the_hot_region(client: httpx.Client) -> None:
    for rule in ("0.5", "otsu"):
        found = post(client, f"{CLASSIFIER}&target=blue&method=hirescam&boxes={rule}")["regions"]
        assert len(found) == 1
        box = found[0]
        assert box["left"] <= 110 <= box["right"]
        assert box["top"] <= 80 <= box["bottom"]
        assert box["right"] - box["left"] < 60
        assert box["mass"] > 0.5
    assert post(client, CLASSIFIER)["regions"] is None


def test_fused_layers_give_one_map(client: httpx.Client) -> None:
    found = post(client, f"{CLASSIFIER}&layer=colour%2Bcolour")
    assert found["layer"] == "colour+colour"
    assert found["peak"] == post(client, CLASSIFIER)["peak"]
    assert post(client, f"{CLASSIFIER}&layer=colour+colour")["layer"] == "colour+colour"
    assert len(post(client, f"{CLASSIFIER}&layer=colour&layer=colour")["results"]) == 2


@pytest.mark.parametrize("by", ["methods", "classes", "layers"])
def test_contact_sheet_is_one_picture(client: httpx.Client, by: str) -> None:
    response = client.post(f"{CLASSIFIER}&view=sheet&by={by}", content=DATA)
    assert response.status_code == 200, response.text
    sheet = Image.open(io.BytesIO(response.content))
    assert sheet.format == "JPEG"
    assert sheet.width > 150


def test_legend_is_drawn_below_the_picture(client: httpx.Client) -> None:
    plain = Image.open(io.BytesIO(client.post(CLASSIFIER, content=DATA).content))
    with_legend = Image.open(io.BytesIO(client.post(f"{CLASSIFIER}&legend=true", content=DATA).content))
    assert with_legend.width >= plain.width
    assert with_legend.height > plain.height


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("url", [CLASSIFIER, SEGMENTER], ids=["classifier", "segmenter"])
def test_every_method_runs_or_states_why_not(client: httpx.Client, method: str, url: str) -> None:
    """`GET /models/{name}` lists the methods that `/cam` can run, and the reason for each other one."""
    model = client.get(f"/models/{url.split('=')[1]}").json()
    layer = model["layers"][0]
    response = client.post(f"{url}&method={method}&target=blue&format=json", content=DATA)
    if method in layer["methods"]:
        assert response.status_code == 200, response.text
        assert response.json()["method"] == method
        assert np.isfinite([response.json()["raw"]["minimum"], response.json()["raw"]["maximum"]]).all()
    else:
        assert response.status_code == 422
        assert response.json()["detail"] == layer["unavailable_methods"][method]


def test_method_cam_needs_a_linear_head(client: httpx.Client) -> None:
    """The marker classifier has one; the segmenter has none."""
    assert "cam" in client.get("/models/classification-squeeze").json()["layers"][0]["methods"]
    assert "cam" in client.get("/models/segmentation-squeeze").json()["layers"][0]["unavailable_methods"]
    raw = [
        np.load(io.BytesIO(client.post(f"{CLASSIFIER}&method={m}&format=npy", content=DATA).content))
        for m in ("cam", "gradcam", "hirescam")
    ]
    np.testing.assert_allclose(raw[0], raw[1] * raw[0].size, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(raw[1], raw[2], rtol=1e-4, atol=1e-8)


def test_layer_without_tail_has_only_gradient_free_methods(client: httpx.Client) -> None:
    layer = client.get("/models/no-gradients").json()["layers"][0]
    assert set(layer["methods"]) == {name for name, m in METHODS.items() if m.needs in ("activations", "image")}
    assert client.post("/cam?model=no-gradients&method=eigencam", content=DATA).status_code == 200
    response = client.post("/cam?model=no-gradients", content=DATA)
    assert (response.status_code, response.json()["code"]) == (422, "gradients_unavailable")


INVALID = [
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


@pytest.mark.parametrize(("url", "code"), INVALID)
def test_invalid_parameter_is_a_problem(client: httpx.Client, url: str, code: str) -> None:
    response = client.post(url, content=DATA)
    assert response.json()["code"] == code, response.text
    assert 400 <= response.status_code < 500


def test_unseen_point_is_a_problem(client: httpx.Client) -> None:
    """A centre crop drops the sides of a wide photo."""
    wide = encode_photo(draw_marker((300, 80), (150, 40), 10, RED))
    response = client.post("/cam?model=segmentation-crop&x=2&y=40", content=wide)
    assert (response.status_code, response.json()["code"]) == (422, "bad_parameter")
    assert "does not see" in response.json()["detail"]


def test_slow_method_ends_at_the_deadline(start: Callable[..., Server], bundles: Path) -> None:
    server = start(bundles, PERCEPT_DEADLINE_S="0.005")
    response = server.client.post(f"{CLASSIFIER}&method=rise", content=DATA)
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    assert server.client.get("/health/ready").status_code == 200


def test_predictions_run_between_passes_of_a_slow_method(server: Server) -> None:
    """Each prediction waits for at most one batch, however many passes the method needs."""

    async def count_predictions() -> int:
        async with httpx.AsyncClient(base_url=server.client.base_url, timeout=60) as http:
            slow = asyncio.create_task(http.post(f"{CLASSIFIER}&method=rise&top=3", content=DATA))
            count = 0
            while not slow.done():
                (await http.post("/predict?model=classification-squeeze", content=DATA)).raise_for_status()
                count += 1
            assert slow.result().status_code == 200
            return count

    assert asyncio.run(count_predictions()) >= 3


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam", "eigencam", "reciprocam", "ablationcam"])
def test_shift_by_a_stride_shifts_the_map_by_a_cell(client: httpx.Client, method: str) -> None:
    """The network takes 48 x 64 pixels in cells of 4 pixels, so the photo is not scaled."""
    maps = []
    for x, y in ((20, 24), (24, 32)):
        photo = draw_marker((48, 64), (x, y), 6, RED)
        response = client.post(f"{CLASSIFIER}&format=npy&target=red&method={method}", content=encode_photo(photo))
        maps.append(np.load(io.BytesIO(response.content)))
    assert maps[0].any()
    np.testing.assert_allclose(np.roll(maps[0], (2, 1), (0, 1)), maps[1], rtol=1e-4, atol=1e-6)
