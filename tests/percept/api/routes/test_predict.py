"""`POST /predict`: classes, shares, masks and overlays."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.photos import draw_marker, encode_photo

PHOTO = draw_marker((150, 110), (40, 30), 14)
DATA = encode_photo(PHOTO)


def open_picture(response: httpx.Response) -> Image.Image:
    assert response.status_code == 200, response.text
    return Image.open(io.BytesIO(response.content))


def test_classifier_returns_its_classes_by_score(client: httpx.Client) -> None:
    response = client.post("/predict?model=classification-squeeze", content=DATA).json()
    assert set(response) == {"id", "model", "image", "predictions"}
    assert response["model"] == {"name": "classification-squeeze", "version": 1, "task": "classification"}
    assert response["image"] == {"width": 150, "height": 110}
    assert response["predictions"][0]["label"] == "red"
    scores = [p["score"] for p in response["predictions"]]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (100, 3)])
def test_top_k_limits_the_classes(client: httpx.Client, top_k: int, count: int) -> None:
    response = client.post(f"/predict?top_k={top_k}", content=DATA).json()
    assert len(response["predictions"]) == count


def test_every_response_has_its_own_id(client: httpx.Client) -> None:
    ids = {client.post("/predict", content=DATA).json()["id"] for _ in range(3)}
    assert len(ids) == 3
    assert min(map(len, ids)) >= 16


def test_segmenter_returns_the_share_of_each_class(client: httpx.Client) -> None:
    response = client.post("/predict?model=segmentation-squeeze", content=DATA).json()
    assert set(response) == {"id", "model", "image", "classes"}
    shares = {c["label"]: c["fraction"] for c in response["classes"]}
    assert set(shares) == {"ground", "red"}
    assert shares["red"] == pytest.approx(28 * 28 / (150 * 110), rel=0.25)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_sizes_are_those_of_the_upright_photo(client: httpx.Client, kind: str) -> None:
    data = encode_photo(PHOTO, kind, orientation=6)
    model = "model=segmentation-squeeze"
    assert client.post(f"/predict?{model}", content=data).json()["image"] == {"width": 150, "height": 110}
    assert open_picture(client.post(f"/predict?{model}&view=mask", content=data)).size == (150, 110)
    cam = f"/cam?{model}&target=red&view=overlay"
    assert open_picture(client.post(cam, content=data)).size == (150, 110)
    array = client.post(f"/cam?{model}&target=red&format=npy&size=photo", content=data).content
    assert np.load(io.BytesIO(array)).shape[-2:] == (110, 150)


def test_mask_is_an_indexed_png_of_the_photos_size(client: httpx.Client) -> None:
    url = "/predict?model=segmentation-squeeze"
    for response in (
        client.post(url, content=DATA, headers={"accept": "image/png"}),
        client.post(url + "&format=png", content=DATA),
        client.post(url + "&view=mask", content=DATA),
    ):
        mask = open_picture(response)
        assert response.headers["content-type"] == "image/png"
        assert (mask.mode, mask.size) == ("P", (150, 110))
        assert np.asarray(mask)[30, 40] == 1
        assert mask.convert("RGB").getpixel((40, 30)) == (255, 0, 0)


def test_overlay_shows_the_photo_and_the_mask(client: httpx.Client) -> None:
    blue = encode_photo(draw_marker((150, 110), (40, 30), 14, (0, 0, 255)))
    url = "/predict?model=segmentation-squeeze&view=overlay&format=png"
    overlay = open_picture(client.post(url, content=blue))
    assert overlay.size == (150, 110)
    assert overlay.getpixel((140, 100)) == draw_marker((150, 110), (40, 30), 14).getpixel((140, 100))
    jpeg = client.post("/predict?model=segmentation-squeeze&view=overlay", content=blue)
    assert jpeg.headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize(
    ("query", "accept", "status", "code"),
    [
        ("format=png", "*/*", 422, "bad_parameter"),
        ("view=mask", "*/*", 422, "bad_parameter"),
        ("", "image/png", 406, "not_acceptable"),
        ("model=segmentation-pad&view=overlay", "text/html", 406, "not_acceptable"),
        ("model=segmentation-pad&view=overlay&format=json", "*/*", 422, "bad_parameter"),
        ("top_k=0", "*/*", 422, "bad_parameter"),
        ("top_k=many", "*/*", 422, "bad_parameter"),
        ("alpha=2", "*/*", 422, "bad_parameter"),
        ("format=bmp", "*/*", 422, "bad_parameter"),
    ],
)
def test_invalid_parameter_is_a_problem(client, query: str, accept: str, status: int, code: str) -> None:
    response = client.post(f"/predict?{query}", content=DATA, headers={"accept": accept})
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_pictures_of_a_large_jpeg_have_its_full_size(client: httpx.Client) -> None:
    """The JPEG is decoded at a reduced size for the network, and in full for the pictures."""
    large = encode_photo(draw_marker((1000, 800), (700, 200), 90), "JPEG")
    response = client.post("/predict?model=segmentation-squeeze", content=large).json()
    assert response["image"] == {"width": 1000, "height": 800}
    for view in ("mask", "overlay"):
        drawn = client.post(f"/predict?model=segmentation-squeeze&view={view}&format=png", content=large).content
        assert Image.open(io.BytesIO(drawn)).size == (1000, 800)
    heat = Image.open(io.BytesIO(client.post("/cam?model=classification-squeeze&format=png", content=large).content))
    assert heat.size == (1000, 800)
