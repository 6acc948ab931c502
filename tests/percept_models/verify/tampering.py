"""Bundles that were tampered with, for the tests of verification."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from percept.bundle.integrity import digest
from percept.bundle.manifest import MANIFEST, WEIGHTS, Manifest


def update_hashes(folder: Path) -> None:
    """Make the manifest agree with the changed files."""
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
    files = {name: digest(folder / name) for name in manifest.files}
    (folder / MANIFEST).write_text(manifest.model_copy(update={"files": files}).model_dump_json())


def scale_weights(folder: Path) -> None:
    """Multiply half of the weights by 1.01."""
    content = np.fromfile(folder / WEIGHTS, np.float32)
    content[: len(content) // 2] *= 1.01
    content.tofile(folder / WEIGHTS)


def change_golden_logits(folder: Path) -> None:
    """Add 1 to the golden logits."""
    with np.load(folder / "golden.npz") as golden:
        arrays = dict(golden)
    np.savez(folder / "golden.npz", pixels=arrays["pixels"], logits=arrays["logits"] + 1)


def scale_gradients(folder: Path, factor: float = 1.001) -> None:
    """Multiply the gradients of the layer `stage2`."""
    file = folder / "tail.stage2.onnx"
    model = onnx.load(file, load_external_data=False)
    for node in model.graph.node:
        node.output[:] = ["right" if name == "gradients" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "wrong"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["right", "wrong"], ["gradients"]))
    file.write_bytes(model.SerializeToString())


def mix_images(folder: Path) -> None:
    """Add the mean of the batch to the logits of the trunk."""
    model = onnx.load(folder / "trunk.onnx", load_external_data=False)
    for node in model.graph.node:
        node.output[:] = ["right" if name == "logits" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "batch_axis"))
    model.graph.node.append(onnx.helper.make_node("ReduceMean", ["right", "batch_axis"], ["batch_mean"]))
    model.graph.node.append(onnx.helper.make_node("Add", ["right", "batch_mean"], ["logits"]))
    (folder / "trunk.onnx").write_bytes(model.SerializeToString())


def truncate_trunk(folder: Path) -> None:
    """Keep half of the trunk's file."""
    content = (folder / "trunk.onnx").read_bytes()
    (folder / "trunk.onnx").write_bytes(content[: len(content) // 2])
