"""The filter pictures of a bundle: their sizes, and the layers that are left out."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from percept.bundle.filters import cut_tiles, load_picture
from percept.bundle.integrity import read_manifest
from percept.bundle.manifest import Layer, ReceptiveField
from percept.bundle.preprocessing import Preprocessing
from percept.settings import BUILT_IN_BUNDLES
from percept_models.export.convert import convert
from percept_models.export.options import ExportOptions
from percept_models.visualize.command import visualize
from percept_models.visualize.options import VisualizeOptions
from percept_models.visualize.pictures import picture_size
from tests.percept_models.networks import PREPROCESSING, PYRAMID, ProductClassifier, Pyramid, export_bundle
from tests.percept_models.visualize.conftest import QUICK, ignore

SIZES = [
    ((224, 224), 7, (64, 64)),
    ((224, 224), 491, (128, 128)),
    ((384, 256), 491, (128, 96)),
    ((384, 256), None, (128, 96)),
    ((32, 32), 7, (32, 32)),
    ((96, 64), 40, (96, 64)),
]


@pytest.mark.parametrize(("input_size", "extent", "expected"), SIZES)
def test_picture_size_is_two_receptive_fields(
    input_size: tuple[int, int], extent: int | None, expected: tuple[int, int]
) -> None:
    """Within bounds, in the shape of the network's input."""
    field = ReceptiveField(size=(extent, extent), start=(0.5, 0.5)) if extent else None
    layer = Layer(name="a", shape=(1, 4, 4), stride=(2, 2), receptive_field=field, unavailable="not needed")
    assert picture_size(layer, input_size) == expected


def test_maxima_are_small_where_the_network_accepts_small_images(tmp_path: Path) -> None:
    """The stages accept them; the pyramid, whose interpolation has a fixed size, gets whole images."""
    preprocessing = Preprocessing(height=160, width=192, mean=PREPROCESSING.mean, std=PREPROCESSING.std)
    layers = ("image", *PYRAMID["layers"])
    folder = export_bundle(tmp_path, Pyramid(), **{**PYRAMID, "layers": layers, "preprocessing": preprocessing})
    visualize(folder, VisualizeOptions(channels=2, steps=2), ignore)
    pictures = {(picture.kind, picture.layer): picture for picture in read_manifest(folder).filters}
    assert pictures["maxima", "stage1"].tile == (64, 64)
    assert max(pictures["maxima", "merge"].tile) <= 128
    assert pictures["inversion", "merge"].tile == (133, 160)


def test_layer_without_gradients_is_left_out(tmp_path: Path) -> None:
    """The unsupported operator is reported, and the layers before it are drawn."""
    lines: list[str] = []
    layers = ("image", "stage1", "stage2")
    folder = export_bundle(tmp_path, ProductClassifier(), labels=("a", "b"), layers=layers, cam_layer="stage2")
    visualize(folder, QUICK, lines.append)
    assert {picture.layer for picture in read_manifest(folder).filters} == {None, "image", "stage1"}
    assert any("stage2" in line and "ReduceProd" in line for line in lines)


@pytest.mark.prove
def test_pictures_of_a_built_in_bundle_are_reproducible(tmp_path: Path) -> None:
    """The same channels, with about the scores in the manifest."""
    built_in, folder = BUILT_IN_BUNDLES / "cifar10" / "1", tmp_path / "cifar10" / "1"
    shutil.copytree(built_in, folder)
    visualize(folder, report=ignore)
    for old, new in zip(read_manifest(built_in).filters, read_manifest(folder).filters, strict=True):
        assert (old.kind, old.layer, old.channels, old.tile) == (new.kind, new.layer, new.channels, new.tile)
        assert new.scores == pytest.approx(old.scores, rel=0.2)


@pytest.mark.prove
def test_pictures_of_a_trained_network_show_features(tmp_path: Path, shared: Path) -> None:
    """MobileNetV2: an early layer's inversion is the photo, the last one's is not; maxima beat noise threefold."""
    given = {"resize": "crop", "short_side": 256, "mean": (127.5,) * 3, "std": (127.5,) * 3}
    file = shared / "models" / "tf2_mobilenet_v2_1.0_224.onnx"
    folder = convert(ExportOptions(str(file), "mobilenet", tmp_path, preprocessing=given), ignore)
    layers = ("stage2_56x56", "stage5_7x7")
    visualize(folder, VisualizeOptions(("add_46", "clip_271"), 4, 128, shared / "images" / "coral_cat.bmp"), ignore)
    pictures = {(picture.kind, picture.layer): picture for picture in read_manifest(folder).filters}
    photo, early, late = (
        np.asarray(cut_tiles(load_picture(folder, picture), picture)[0]).ravel()
        for picture in (pictures["inversion", layer] for layer in ("image", *layers))
    )
    assert np.corrcoef(photo, early)[0, 1] > 0.9
    assert np.corrcoef(photo, late)[0, 1] < 0.8
    for layer in layers:
        maxima = pictures["maxima", layer]
        assert all(score > 3 * abs(noise) for score, noise in zip(maxima.scores, maxima.noise, strict=True))
