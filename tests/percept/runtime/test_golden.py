"""The golden output: a trunk that does not reproduce it, on this machine or in a batch, is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from percept.errors import BundleError
from percept.imaging.encode import encode_npy
from percept.runtime.network import Network
from tests.bundles import create_bundle, read_manifest_json, write_manifest


def test_golden_output_that_is_not_reproduced_is_refused(tmp_path: Path) -> None:
    folder = create_bundle(tmp_path)
    with np.load(folder / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["logits"] = arrays["logits"] * 1.01
    np.savez(folder / "golden.npz", **arrays)
    write_manifest(folder, read_manifest_json(folder), rehash=True)
    with pytest.raises(BundleError, match=r"golden output is not reproduced: the difference is 0\.0099"):
        Network(folder, "cpu", 1)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"text", encode_npy(np.zeros(3))])
def test_file_without_golden_input_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = create_bundle(tmp_path)
    (folder / "golden.npz").write_bytes(content)
    write_manifest(folder, read_manifest_json(folder), rehash=True)
    with pytest.raises(BundleError, match=r"golden\.npz does not contain a golden input"):
        Network(folder, "cpu", 1)


@pytest.mark.parametrize(
    ("pixels", "logits", "reason"),
    [((1, 8, 8, 3), (1, 3), "golden input cannot be run"), ((1, 32, 32, 3), (1, 4), "golden logits have the shape")],
)
def test_golden_arrays_of_another_shape_are_refused(
    tmp_path: Path, pixels: tuple[int, ...], logits: tuple[int, ...], reason: str
) -> None:
    folder = create_bundle(tmp_path)
    np.savez(folder / "golden.npz", pixels=np.zeros(pixels, np.uint8), logits=np.zeros(logits))
    write_manifest(folder, read_manifest_json(folder), rehash=True)
    with pytest.raises(BundleError, match=reason):
        Network(folder, "cpu", 1)


def test_trunk_that_differs_in_a_larger_batch_is_refused(tmp_path: Path) -> None:
    """Its logits are multiplied by the number of images."""
    folder = create_bundle(tmp_path)
    model = onnx.load(folder / "trunk.onnx")
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["pixels"], ["n"], start=0, end=1),
            helper.make_node("Cast", ["n"], ["factor"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["raw", "factor"], ["logits"]),
        ]
    )
    onnx.save(model, folder / "trunk.onnx")
    write_manifest(folder, read_manifest_json(folder), rehash=True)
    assert Network(folder, "cpu", 1, (1,))
    with pytest.raises(BundleError, match="golden output is not reproduced"):
        Network(folder, "cpu", 1, (1, 2))
