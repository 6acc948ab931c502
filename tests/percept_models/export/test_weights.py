"""The weights of a bundle: stored once, and read back under their torch names."""

from pathlib import Path

import onnx
import torch

from percept.bundle.manifest import WEIGHTS
from percept_models.export.weights import read_parameters
from tests.percept_models.networks import PYRAMID, Pyramid, export_bundle


def test_no_weight_is_stored_twice(tmp_path: Path) -> None:
    """All graphs share one file, no larger than the weights and a few interpolation matrices."""
    network = Pyramid()
    folder = export_bundle(tmp_path, network, **PYRAMID)
    size = sum(4 * parameter.numel() for parameter in network.parameters())
    assert (folder / WEIGHTS).stat().st_size < 1.3 * size + 8192
    for file in folder.glob("tail.*.onnx"):
        inside = onnx.load(file, load_external_data=False).graph.initializer
        assert sum(len(tensor.raw_data) for tensor in inside) < 8192


def test_parameters_are_read_back_bit_by_bit(tmp_path: Path) -> None:
    network = Pyramid()
    with torch.no_grad():
        for name in ("head.bias", "merge.0.bias", "laterals.0.bias"):
            network.get_parameter(name).zero_()  # exporters tend to drop or merge zeros
    found = read_parameters(export_bundle(tmp_path, network, **PYRAMID))
    assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in network.state_dict().items()}
