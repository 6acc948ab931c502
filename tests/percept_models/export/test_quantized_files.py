"""Files that round: in QDQ form they become int8 bundles with gradients, else the gradients end at the rounding."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto

from percept.bundle.integrity import read_manifest
from percept.bundle.manifest import Layer
from percept_models.graph.execution import run
from percept_models.sources.trunk import PIXELS
from tests.percept_models.export.conftest import Export
from tests.percept_models.importer.graphs import conv, node, pool_and_flatten, write_file
from tests.percept_models.importer.test_quantization import pair, stored


def network(*middle: NodeProto) -> list[NodeProto]:
    """Two convolutions of the same weights; the operators between them lead from `c` to `m`."""
    return [
        *(conv("x", "c"), *middle),
        *(node("Relu", "m", "r"), conv("r", "d", "w2"), node("Relu", "d", "e"), *pool_and_flatten("e")),
    ]


def export_file(export: Export, folder: Path, nodes: Sequence[NodeProto]) -> list[Layer]:
    """Export a file that takes images 16 x 12 and return the layers of the bundle."""
    weights = np.random.default_rng(5).standard_normal((4, 4, 3, 3)).astype(np.float32)
    constants = stored(w2=weights, s=np.float32(0.05), z=np.uint8(128))
    file = write_file(folder, nodes, constants, image=("N", 3, 16, 12))
    assert export(str(file), "--mean", "0.5", "--std", "0.25", "--layers", "c", "m", "e") == 0
    return list(read_manifest(export.folder()).layers)


def test_qdq_file_becomes_int8_bundle_with_gradients(export: Export, tmp_path: Path) -> None:
    """The trunk's rounding shows in the tapped layer after the pair."""
    layers = export_file(export, tmp_path, network(*pair("c", "m")))
    assert read_manifest(export.folder()).precision == "int8"
    assert all(layer.tail for layer in layers)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 16, 12, 3), np.uint8)
    levels = run(export.folder() / "trunk.onnx", {PIXELS: pixels})["m"] / np.float32(0.05)
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)


STEPS = {
    "Round": [node("Round", "c", "m")],
    "Cast": [node("Cast", "c", "i", to=TensorProto.INT32), node("Cast", "i", "m", to=TensorProto.FLOAT)],
    "Floor": [node("Floor", "c", "m")],
    "Sign": [node("Sign", "c", "m")],
}


@pytest.mark.parametrize("operator", STEPS)
def test_gradients_end_at_step_function(export: Export, tmp_path: Path, operator: str) -> None:
    """The layers after it have gradients; those before name it."""
    image, before, after, last = export_file(export, tmp_path, network(*STEPS[operator]))
    assert (before.name, after.name, last.name) == ("c", "m", "e")
    assert (image.tail, before.tail) == (None, None)
    assert image.unavailable == before.unavailable
    assert before.unavailable == (
        f"no gradients through the operator {operator}: its result is a step function, whose derivative is 0"
    )
    assert after.tail
    assert last.tail


def test_gradients_pass_beside_step_function(export: Export, tmp_path: Path) -> None:
    """Where a path without rounding leads around it, the gradients are those of that path."""
    layers = export_file(export, tmp_path, network(node("Floor", "c", "f"), node("Add", "c f", "m")))
    assert all(layer.tail for layer in layers)
