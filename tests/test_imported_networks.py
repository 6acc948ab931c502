"""ONNX files of other people, exported and served: heatmaps for a dog and for a cat in the same photo."""

from collections.abc import Callable
from pathlib import Path

import pytest

from percept_models.export.convert import convert
from percept_models.export.options import ExportOptions
from tests.conftest import Server

CENTRED = {"mean": (127.5,) * 3, "std": (127.5,) * 3, "resize": "crop"}
NETWORKS = {
    "mobilenet-v2": ("tf2_mobilenet_v2_1.0_224.onnx", {**CENTRED, "short_side": 256}),
    "mobilenet-v1": ("mobilenet_v1_0.25_128.onnx", {**CENTRED, "short_side": 146}),
    "squeezenet": (
        "squeezenet1.0_deepcompression_227.onnx",
        {"mean": (104, 117, 123), "channels": "BGR", "resize": "crop", "short_side": 256},
    ),
}
# Where the animals are in the photo of 224 x 224 pixels: left, top, right, bottom.
PLACES = {"dog": (78, 11, 164, 150), "cat": (45, 116, 202, 223)}
LABELS = {"Boxer": "dog", "Bullmastiff": "dog", "tiger cat": "cat", "tabby cat": "cat"}


@pytest.fixture(scope="module")
def server(shared: Path, start: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server with the three networks."""
    root = tmp_path_factory.mktemp("imported")
    labels = shared / "models" / "imagenet-simple-labels.json"
    for name, (file, preprocessing) in NETWORKS.items():
        source = str(shared / "models" / file)
        convert(ExportOptions(source, name, root, preprocessing=preprocessing, labels=labels), lambda _line: None)
    return start(root)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("model", NETWORKS)
def test_heatmap_peaks_on_the_explained_animal(server: Server, shared: Path, model: str, label: str) -> None:
    photo = (shared / "images" / "both.png").read_bytes()
    params = {"model": model, "target": label, "format": "json"}
    response = server.client.post("/cam", params=params, content=photo, headers={"content-type": "image/png"})
    assert response.status_code == 200, response.text
    peak = response.json()["peak"]
    left, top, right, bottom = PLACES[LABELS[label]]
    assert left <= peak["x"] <= right
    assert top <= peak["y"] <= bottom
