"""A bundle with filter pictures, and layers of bundles as functions of images."""

from pathlib import Path

import onnx
import pytest

from percept.bundle.integrity import read_manifest
from percept_models.visualize.command import visualize
from percept_models.visualize.layer_response import LayerResponse
from percept_models.visualize.options import VisualizeOptions
from tests.percept_models.networks import PREPROCESSING, export_bundle

LAYERS = ("image", "stem", "stage1", "stage2")
SIZE = (PREPROCESSING.height, PREPROCESSING.width)
QUICK = VisualizeOptions(channels=4, steps=12)


def ignore(_line: str) -> None:
    """A report that prints nothing."""


def layer_response(bundle: Path, name: str) -> LayerResponse:
    """A layer of a bundle as a function of images."""
    manifest = read_manifest(bundle)
    layer = manifest.layer(name)
    assert layer
    return LayerResponse(onnx.load(bundle / manifest.trunk), layer, manifest.preprocessing, SIZE)


@pytest.fixture(scope="session")
def visualized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with pictures of few steps; tests must not change it."""
    folder = export_bundle(tmp_path_factory.mktemp("visualized"), layers=LAYERS)
    visualize(folder, QUICK, ignore)
    return folder
