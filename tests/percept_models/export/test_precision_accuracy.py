"""How much accuracy the built-in bundles lose in lower precision."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto
from torch import Tensor

from percept.bundle.integrity import read_manifest
from percept.settings import BUILT_IN_BUNDLES
from percept_models.export.photos import read_photos
from percept_models.export.precision import to_float16, to_int8
from percept_models.training.bundles import trunk_predictor
from percept_models.training.loop import Predict
from percept_models.training.recipes import RECIPES


def predictor(trunk: ModelProto) -> Predict:
    return trunk_predictor(trunk.SerializeToString())


@pytest.fixture(scope="module", params=["cifar10", "clothing"])
def built_in(request: pytest.FixtureRequest) -> Path:
    return BUILT_IN_BUNDLES / request.param / "1"


def training_photos(name: str, data: Path, folder: Path) -> Path:
    """Fill a folder with images of the training split: of CIFAR-10 every 250th."""
    if name == "clothing":
        for photo in (data / "train.txt").read_text().split():
            (folder / f"{photo}.jpg").symlink_to(data / "images" / f"{photo}.jpg")
        return folder
    with np.load(data / "train.npz") as split:
        ends, jpeg = split["offset"], split["jpeg"]
    for number, (begin, end) in list(enumerate(pairwise(ends)))[::250]:
        (folder / f"{number:05}.jpg").write_bytes(jpeg[begin:end].tobytes())
    return folder


@pytest.mark.prove
def test_int8_loses_less_than_a_point(built_in: Path, shared: Path, tmp_path: Path) -> None:
    """On the test splits, calibrated on 200 images of the training split."""
    manifest = read_manifest(built_in)
    data = shared / "data" / manifest.name
    photos = read_photos(training_photos(manifest.name, data, tmp_path), manifest.preprocessing)
    trunk = to_int8(onnx.load(built_in / manifest.trunk), photos)
    found = RECIPES[manifest.name].measure(predictor(trunk), data)
    assert found == pytest.approx(manifest.provenance.metrics, abs=0.01)


@pytest.mark.prove
def test_float16_gives_the_same_predictions(built_in: Path, shared: Path) -> None:
    """The same class for more than 999 of 1000 images or pixels of the test splits."""
    manifest = read_manifest(built_in)
    trunk = onnx.load(built_in / manifest.trunk)
    float32, float16 = predictor(trunk), predictor(to_float16(trunk))
    agreement: list[Tensor] = []

    def predict(pixels: Tensor) -> Tensor:
        expected, found = float32(pixels), float16(pixels)
        agreement.append((expected.argmax(1) == found.argmax(1)).flatten())
        return found

    found = RECIPES[manifest.name].measure(predict, shared / "data" / manifest.name)
    assert torch.cat(agreement).float().mean() > 0.999
    assert found == pytest.approx(manifest.provenance.metrics, abs=1e-3)
