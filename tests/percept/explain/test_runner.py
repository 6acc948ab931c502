"""`/cam`: heatmaps on the right pixels, in every view and format."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.photos import draw_marker, encode_photo

PHOTO = draw_marker((150, 110), (40, 30), 14)
DATA = encode_photo(PHOTO)
URL = "/cam?model=classification-squeeze"


def test_the_default_is_a_jpeg_overlay_as_large_as_the_photo(client: httpx.Client) -> None:
    answer = client.post(URL, content=DATA)
    overlay = Image.open(io.BytesIO(answer.content))
    assert answer.headers["content-type"] == "image/jpeg"
    assert (overlay.format, overlay.size) == ("JPEG", (150, 110))
    assert answer.headers["percept-method"] == "gradcam"
    assert answer.headers["percept-layer"] == "colour"
    assert answer.headers["percept-model"] == "classification-squeeze/1"
    assert answer.headers["percept-target"].startswith("0; label=red; score=0.")


@pytest.mark.parametrize("view", ["overlay", "heatmap"])
@pytest.mark.parametrize(("name", "kind"), [("jpeg", "image/jpeg"), ("png", "image/png"), ("webp", "image/webp")])
def test_every_view_comes_in_every_format(client: httpx.Client, view: str, name: str, kind: str) -> None:
    by_format = client.post(f"{URL}&view={view}&format={name}", content=DATA)
    by_accept = client.post(f"{URL}&view={view}", content=DATA, headers={"accept": kind})
    for answer in (by_format, by_accept):
        found = Image.open(io.BytesIO(answer.content))
        assert answer.headers["content-type"] == kind
        assert (found.format, found.size) == (name.upper(), (150, 110))


def test_a_heatmap_is_a_png_that_is_hot_at_the_marker(client: httpx.Client) -> None:
    answer = client.post(f"{URL}&view=heatmap&colormap=gray", content=DATA)
    heat = np.asarray(Image.open(io.BytesIO(answer.content)).convert("L"))
    assert heat[30, 40] > 240
    assert heat[90, 120] < 10


def test_the_numbers_say_what_was_explained(client: httpx.Client) -> None:
    answer = client.post(f"{URL}&format=json", content=DATA).json()
    assert (answer["method"], answer["layer"], answer["shape"]) == ("gradcam", "colour", [16, 12])
    assert (answer["target"]["label"], answer["target"]["index"]) == ("red", 0)
    assert answer["raw"]["maximum"] == pytest.approx(1 / (3 * 0 + 16 * 12), rel=0.05)
    assert answer["peak"]["x"] == pytest.approx(40, abs=150 / 12)
    assert answer["peak"]["y"] == pytest.approx(30, abs=110 / 16)


def test_a_target_goes_by_label_or_index(client: httpx.Client) -> None:
    data = encode_photo(draw_marker((100, 100), (50, 50), 20, (0, 0, 255)))
    for target in ("blue", "2"):
        answer = client.post(f"{URL}&format=json&target={target}", content=data).json()
        assert (answer["target"]["label"], answer["target"]["index"]) == ("blue", 2)
        assert answer["peak"] is not None


def test_a_class_of_which_nothing_is_seen_has_no_peak(client: httpx.Client) -> None:
    blank = encode_photo(Image.new("RGB", (40, 40), (128, 128, 128)))
    answer = client.post(f"{URL}&format=json&target=red", content=blank).json()
    assert answer["peak"] is None
    assert client.post(URL, content=blank).status_code == 200


def test_npy_is_the_raw_map_or_the_shown_one_in_cells_or_photo_pixels(client: httpx.Client) -> None:
    def fetch(query: str) -> np.ndarray:
        answer = client.post(f"{URL}&format=npy{query}", content=DATA)
        found = np.load(io.BytesIO(answer.content), allow_pickle=False)
        assert found.dtype == np.float32
        return found

    raw, shown = fetch(""), fetch("&scale=unit")
    assert raw.shape == shown.shape == (16, 12)
    np.testing.assert_allclose(shown, np.maximum(raw, 0) / raw.max(), rtol=1e-5)
    full = fetch("&scale=unit&size=photo")
    assert full.shape == (110, 150)
    assert full[30, 40] == pytest.approx(1, abs=0.05)


def test_alpha_and_colormap_change_the_overlay(client: httpx.Client) -> None:
    pictures = {
        client.post(f"{URL}&{query}", content=DATA).content for query in ("", "alpha=0.2", "colormap=jet", "alpha=0")
    }
    assert len(pictures) == 4


def test_every_method_answers(client: httpx.Client) -> None:
    for method in ("gradcam", "gradcam%2B%2B", "xgradcam", "hirescam", "layercam"):
        answer = client.post(f"{URL}&format=json&method={method}", content=DATA).json()
        assert answer["peak"]["x"] == pytest.approx(40, abs=150 / 12)


def test_for_a_segmenter_the_target_is_a_class_and_the_seed_its_pixels(client: httpx.Client) -> None:
    url = "/cam?model=segmentation-squeeze&format=json"
    answer = client.post(url, content=DATA).json()
    assert answer["target"]["label"] == "red"
    assert answer["peak"]["x"] == pytest.approx(40, abs=20)
    absent = client.post(f"{url}&target=green", content=DATA)
    assert (absent.status_code, absent.json()["code"]) == (422, "target_absent")
    assert "ground, red" in absent.json()["detail"]


def test_what_the_network_never_saw_is_not_shown_as_cold(client: httpx.Client) -> None:
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
def test_what_cannot_be_given_is_refused(client: httpx.Client, query: str, status: int, code: str) -> None:
    answer = client.post(f"/cam?{query}", content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
