"""The usual picture of a dog beside a cat, by networks that other people trained and gave away as ONNX files.

From the files to the answers over HTTP: exported, served, asked for either animal.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from percept_models.export.convert import convert
from percept_models.export.draft import Wish
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
# Where the animals are in the photo of 224 x 224: left, top, right, bottom.
PLACES = {"dog": (78, 11, 164, 150), "cat": (45, 116, 202, 223)}
LABELS = {"Boxer": "dog", "Bullmastiff": "dog", "tiger cat": "cat", "tabby cat": "cat"}


@pytest.fixture(scope="module")
def foreign(shared: Path, start: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    root = tmp_path_factory.mktemp("foreign")
    labels = shared / "models" / "imagenet-simple-labels.json"
    for name, (file, how) in NETWORKS.items():
        wish = Wish(str(shared / "models" / file), name, out=root, preprocessing=how, labels=labels)
        convert(wish, lambda line: None)
    return start(root)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("model", NETWORKS)
def test_a_heatmap_peaks_on_the_animal_that_was_asked_for(
    foreign: Server, shared: Path, model: str, label: str
) -> None:
    photo = (shared / "images" / "both.png").read_bytes()
    asked = {"model": model, "target": label, "format": "json"}
    answer = foreign.client.post("/cam", params=asked, content=photo, headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text
    peak = answer.json()["peak"]
    left, top, right, bottom = PLACES[LABELS[label]]
    assert left <= peak["x"] <= right
    assert top <= peak["y"] <= bottom
