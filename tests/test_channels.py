"""Grey networks and networks with an alpha: exported, served and explained, with the scores of torch."""

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from torch import Tensor, nn

from percept.bundle.filters import cut_tiles, load_picture
from percept.bundle.integrity import read_manifest
from percept.explain.methods.table import METHODS
from percept.server.app import create_app
from percept.server.cli import main
from percept.settings import Settings
from percept_models.export.convert import convert
from percept_models.export.options import ExportOptions
from percept_models.graph.reader import Array

SIZE = (32, 24)  # height and width
CHANNELS = {"grey": 1, "alpha": 4}
MODES = {"grey": "L", "alpha": "RGBA"}
PREPROCESSING = {"height": SIZE[0], "width": SIZE[1], "mean": (0.0,), "std": (255.0,)}


class Network(nn.Module):
    """A classifier of four classes of images with one or four channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(16, 4)
        with torch.no_grad():
            self.head.weight.mul_(20)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.head(self.features(x).mean((2, 3)))


def factory(channels: int) -> nn.Module:
    """The source of both bundles."""
    return Network(channels)


def photo_with_alpha() -> Image.Image:
    """A photo of 60 x 40 pixels that is more transparent the lower a pixel lies."""
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    photo = Image.fromarray(colours).resize((60, 40), Image.Resampling.BICUBIC)
    photo.putalpha(Image.linear_gradient("L").resize((60, 40)))
    return photo


RGBA = photo_with_alpha()
OVER_WHITE = Image.alpha_composite(Image.new("RGBA", RGBA.size, "white"), RGBA).convert("RGB")
# The files, and the photos that the networks get.
PHOTOS = {
    "alpha": (RGBA, {"grey": OVER_WHITE, "alpha": RGBA}),
    "opaque": (OVER_WHITE, {"grey": OVER_WHITE, "alpha": OVER_WHITE}),
    "grey": (RGBA.convert("L"), {"grey": RGBA.convert("L"), "alpha": RGBA.convert("L")}),
}


def encode(photo: Image.Image) -> bytes:
    """A PNG file."""
    stream = io.BytesIO()
    photo.save(stream, "PNG")
    return stream.getvalue()


def pixels_of(model: str, photo: Image.Image) -> Array:
    """The pixels [H,W,C] that a torch user would give the network."""
    resized = photo.convert(MODES[model]).resize((SIZE[1], SIZE[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(*SIZE, CHANNELS[model])


def scores_of(model: str, pixels: Array) -> Array:
    """The scores that torch computes."""
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        return np.asarray(Network(CHANNELS[model]).eval()(x).softmax(1)[0])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both bundles, exported without `--channels`."""
    root = tmp_path_factory.mktemp("channels")
    for model, channels in CHANNELS.items():
        source = f"{__name__}:factory?channels={channels}"
        convert(ExportOptions(source, model, root, preprocessing=PREPROCESSING), lambda _line: None)
    return root


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[TestClient]:
    """A client of the application with both bundles."""
    with TestClient(create_app(Settings(device="cpu", models=repository))) as client:
        for _ in range(200):
            if client.get("/health/ready").status_code == 200:
                break
            time.sleep(0.05)
        yield client


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of six photos, one of them grey."""
    for k in range(6):
        RGBA.rotate(60 * k).save(tmp_path / f"{k}.png")
    RGBA.convert("L").save(tmp_path / "grey.png")
    return tmp_path


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("model", CHANNELS)
def test_scores_are_those_of_torch(client: TestClient, model: str, photo: str) -> None:
    file, seen = PHOTOS[photo]
    answer = client.post("/predict", params={"model": model, "top_k": 4}, content=encode(file)).json()
    found = {one["index"]: one["score"] for one in answer["predictions"]}
    expected = scores_of(model, pixels_of(model, seen[model]))
    np.testing.assert_allclose([found[k] for k in range(4)], expected, atol=1e-5)


@pytest.mark.parametrize("model", CHANNELS)
def test_pixels_have_the_channels_of_the_network(client: TestClient, model: str) -> None:
    pixels = pixels_of(model, RGBA)
    inputs = client.get(f"/v2/models/{model}").json()["inputs"]
    assert inputs[0] == {"name": "pixels", "datatype": "UINT8", "shape": [-1, *pixels.shape]}

    def infer(array: Array) -> Any:
        tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, *array.shape], "data": array.ravel().tolist()}
        return client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor], "outputs": [{"name": "scores"}]})

    np.testing.assert_allclose(infer(pixels).json()["outputs"][0]["data"], scores_of(model, pixels), atol=1e-5)
    refused = infer(np.zeros((*SIZE, 3), np.uint8))
    assert refused.status_code == 422
    assert f"takes pixels of [N, 32, 24, {CHANNELS[model]}], not" in refused.json()["detail"]


@pytest.mark.parametrize("model", CHANNELS)
def test_every_method_explains_every_layer_that_it_can(client: TestClient, model: str) -> None:
    layers = client.get(f"/models/{model}").json()["layers"]
    assert layers[0]["shape"] == [CHANNELS[model], *SIZE]
    assert {"occlusion", "rise", "saliency", "integrated_gradients"} <= set(layers[0]["methods"])
    assert {"gradcam", "scorecam", "reciprocam"} <= set(layers[-1]["methods"]) <= set(METHODS)
    for layer in layers:
        for method in layer["methods"]:
            params = {"model": model, "layer": layer["name"], "method": method, "format": "npy"}
            response = client.post("/cam", params=params, content=encode(RGBA))
            assert response.status_code == 200, response.text
            heat = np.load(io.BytesIO(response.content))
            assert np.isfinite(heat).all()
            assert np.ptp(heat) > 0, (layer["name"], method)


@pytest.mark.parametrize("model", CHANNELS)
def test_picture_lies_over_the_rgb_photo(client: TestClient, model: str) -> None:
    params = {"model": model, "alpha": "0", "format": "png"}
    response = client.post("/cam", params=params, content=encode(RGBA))
    picture = Image.open(io.BytesIO(response.content)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(OVER_WHITE))


@pytest.mark.parametrize("model", CHANNELS)
def test_image_layer_and_faithfulness_have_the_networks_channels(client: TestClient, model: str) -> None:
    params = {"model": model, "layer": "image", "format": "npy"}
    image = np.load(io.BytesIO(client.post("/features", params=params, content=encode(RGBA)).content))
    seen = PHOTOS["alpha"][1][model]
    np.testing.assert_allclose(image, pixels_of(model, seen).transpose(2, 0, 1) / 255, atol=1e-6)
    for view in ("grid", "components"):
        answer = client.post("/features", params={**params, "format": "png", "view": view}, content=encode(RGBA))
        assert answer.status_code == 200, answer.text
    measured = client.post(
        "/cam", params={"model": model, "faithfulness": "true", "format": "json"}, content=encode(RGBA)
    )
    faithfulness = measured.json()["faithfulness"]
    assert faithfulness["score"] == pytest.approx(scores_of(model, pixels_of(model, seen)).max(), abs=1e-5)
    blank = scores_of(model, np.zeros((*SIZE, CHANNELS[model]), np.uint8))
    assert faithfulness["deletion_curve"][-1] == pytest.approx(blank[measured.json()["target"]["index"]], abs=1e-5)


@pytest.mark.parametrize("model", CHANNELS)
def test_lower_precision_is_calibrated_on_the_networks_channels(
    repository: Path, photos: Path, tmp_path: Path, model: str
) -> None:
    options = ExportOptions(
        str(repository / model / "1"), model, tmp_path / "out", precision="int8", calibration=photos
    )
    assert read_manifest(convert(options, lambda _line: None)).preprocessing.shape == (*SIZE, CHANNELS[model])


@pytest.mark.parametrize("model", CHANNELS)
def test_filter_pictures_are_rgb(repository: Path, photos: Path, model: str) -> None:
    folder = repository / model / "1"
    photo = str(photos / "0.png")
    assert main(["visualize", str(folder), "--channels", "2", "--steps", "2", "--photo", photo]) == 0
    pictures = {(one.kind, one.layer): one for one in read_manifest(folder).filters}
    assert {kind for kind, _ in pictures} == {"kernels", "maxima", "inversion"}
    for picture in pictures.values():
        tiles = cut_tiles(load_picture(folder, picture), picture)
        assert all(tile.mode == "RGB" for tile in tiles)
        is_grey = all((np.asarray(tile) == np.asarray(tile)[:, :, :1]).all() for tile in tiles)
        assert is_grey == (model == "grey"), picture.kind


@pytest.mark.parametrize("model", CHANNELS)
def test_evaluation_measures_the_networks_channels(repository: Path, photos: Path, tmp_path: Path, model: str) -> None:
    bundle, out = str(repository / model / "1"), tmp_path / "report"
    assert main(["evaluate", bundle, str(photos), "--methods", "gradcam", "--limit", "2", "--out", str(out)]) == 0
    assert "gradcam" in (out / "table.md").read_text()
