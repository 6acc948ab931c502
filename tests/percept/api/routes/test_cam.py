"""`POST /cam`: heatmaps on the right pixels, in every view and format."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.photos import draw_marker, encode_photo

PHOTO = draw_marker((150, 110), (40, 30), 14)
DATA = encode_photo(PHOTO)
URL = "/cam?model=classification-squeeze"


def test_default_is_a_jpeg_overlay_of_the_photo(client: httpx.Client) -> None:
    response = client.post(URL, content=DATA)
    overlay = Image.open(io.BytesIO(response.content))
    assert response.headers["content-type"] == "image/jpeg"
    assert (overlay.format, overlay.size) == ("JPEG", (150, 110))
    assert response.headers["percept-method"] == "gradcam"
    assert response.headers["percept-layer"] == "colour"
    assert response.headers["percept-model"] == "classification-squeeze/1"
    assert response.headers["percept-target"].startswith("0; label=red; score=0.")


@pytest.mark.parametrize("view", ["overlay", "heatmap"])
@pytest.mark.parametrize(("name", "kind"), [("jpeg", "image/jpeg"), ("png", "image/png"), ("webp", "image/webp")])
def test_every_view_has_every_picture_format(client: httpx.Client, view: str, name: str, kind: str) -> None:
    by_format = client.post(f"{URL}&view={view}&format={name}", content=DATA)
    by_accept = client.post(f"{URL}&view={view}", content=DATA, headers={"accept": kind})
    for response in (by_format, by_accept):
        found = Image.open(io.BytesIO(response.content))
        assert response.headers["content-type"] == kind
        assert (found.format, found.size) == (name.upper(), (150, 110))


def test_heatmap_is_hot_at_the_marker(client: httpx.Client) -> None:
    response = client.post(f"{URL}&view=heatmap&colormap=gray", content=DATA)
    heat = np.asarray(Image.open(io.BytesIO(response.content)).convert("L"))
    assert heat[30, 40] > 240
    assert heat[90, 120] < 10


def test_json_states_what_was_explained(client: httpx.Client) -> None:
    response = client.post(f"{URL}&format=json", content=DATA).json()
    assert (response["method"], response["layer"], response["shape"]) == ("gradcam", "colour", [16, 12])
    assert (response["target"]["label"], response["target"]["index"]) == ("red", 0)
    assert response["raw"]["maximum"] == pytest.approx(1 / (3 * 0 + 16 * 12), rel=0.05)
    assert response["peak"]["x"] == pytest.approx(40, abs=150 / 12)
    assert response["peak"]["y"] == pytest.approx(30, abs=110 / 16)


def test_target_is_a_label_or_an_index(client: httpx.Client) -> None:
    data = encode_photo(draw_marker((100, 100), (50, 50), 20, (0, 0, 255)))
    for target in ("blue", "2"):
        response = client.post(f"{URL}&format=json&target={target}", content=data).json()
        assert (response["target"]["label"], response["target"]["index"]) == ("blue", 2)
        assert response["peak"] is not None


def test_map_without_heat_has_no_peak(client: httpx.Client) -> None:
    blank = encode_photo(Image.new("RGB", (40, 40), (128, 128, 128)))
    response = client.post(f"{URL}&format=json&target=red", content=blank).json()
    assert response["peak"] is None
    assert client.post(URL, content=blank).status_code == 200


def test_npy_has_the_requested_scale_and_size(client: httpx.Client) -> None:
    def fetch(query: str) -> np.ndarray:
        response = client.post(f"{URL}&format=npy{query}", content=DATA)
        found = np.load(io.BytesIO(response.content), allow_pickle=False)
        assert found.dtype == np.float32
        return found

    raw, unit = fetch(""), fetch("&scale=unit")
    assert raw.shape == unit.shape == (16, 12)
    np.testing.assert_allclose(unit, np.maximum(raw, 0) / raw.max(), rtol=1e-5)
    full = fetch("&scale=unit&size=photo")
    assert full.shape == (110, 150)
    assert full[30, 40] == pytest.approx(1, abs=0.05)


def test_alpha_and_colormap_change_the_overlay(client: httpx.Client) -> None:
    pictures = {
        client.post(f"{URL}&{query}", content=DATA).content for query in ("", "alpha=0.2", "colormap=jet", "alpha=0")
    }
    assert len(pictures) == 4


def test_gradient_methods_are_hot_at_the_marker(client: httpx.Client) -> None:
    for method in ("gradcam", "gradcam%2B%2B", "xgradcam", "hirescam", "layercam"):
        response = client.post(f"{URL}&format=json&method={method}", content=DATA).json()
        assert response["peak"]["x"] == pytest.approx(40, abs=150 / 12)


def test_segmenter_explains_the_pixels_of_a_class(client: httpx.Client) -> None:
    url = "/cam?model=segmentation-squeeze&format=json"
    response = client.post(url, content=DATA).json()
    assert response["target"]["label"] == "red"
    assert response["peak"]["x"] == pytest.approx(40, abs=20)
    absent = client.post(f"{url}&target=green", content=DATA)
    assert (absent.status_code, absent.json()["code"]) == (422, "target_absent")
    assert "ground, red" in absent.json()["detail"]


def test_unseen_pixels_are_not_shown_as_cold(client: httpx.Client) -> None:
    url = "/cam?model=classification-crop"
    full = client.post(f"{url}&format=npy&size=photo", content=DATA)
    values = np.load(io.BytesIO(full.content), allow_pickle=False)
    assert np.isnan(values[:, :20]).all()
    assert np.isfinite(values[20:90, 45:105]).all()
    heat = Image.open(io.BytesIO(client.post(f"{url}&view=heatmap", content=DATA).content)).convert("RGBA")
    assert heat.getpixel((3, 3))[3] == 0
    assert heat.getpixel((75, 55))[3] == 255


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("layer=body", 404, "unknown_layer"),
        ("target=purple", 404, "unknown_class"),
        ("target=3", 404, "unknown_class"),
        ("method=magic", 422, "bad_parameter"),
        ("view=mask", 422, "bad_parameter"),
        ("format=bmp", 422, "bad_parameter"),
        ("alpha=-0.1", 422, "bad_parameter"),
        ("alpha=nan", 422, "bad_parameter"),
        ("colormap=rainbow", 422, "bad_parameter"),
        ("size=huge", 422, "bad_parameter"),
        ("model=no-gradients", 422, "gradients_unavailable"),
    ],
)
def test_invalid_parameter_is_a_problem(client: httpx.Client, query: str, status: int, code: str) -> None:
    response = client.post(f"/cam?{query}", content=DATA)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
