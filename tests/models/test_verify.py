"""What `verify` accepts, and what it must never accept."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.store import WEIGHTS
from models.verify import table, verify
from service.manifest import MANIFEST, Manifest, digest
from tests.models.networks import PYRAMID, Classifier, Pyramid, bundle


def test_a_bundle_passes_against_its_network(tmp_path: Path) -> None:
    """Files, golden input, logits, and for each layer activations, tail logits and gradients."""
    checks = verify(bundle(tmp_path), Classifier())
    assert len(checks) == 3 + 3 * 3
    assert all(check.passed for check in checks), table(checks)
    assert "FAIL" not in table(checks)


def test_a_bundle_passes_by_itself(tmp_path: Path) -> None:
    """Without a network, the tails must agree with the trunk."""
    checks = verify(bundle(tmp_path, Pyramid(), **PYRAMID))
    assert len(checks) == 2 + 4
    assert all(check.passed for check in checks), table(checks)


def sign(folder: Path) -> None:
    """Make the manifest agree with files that were tampered with."""
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
    files = {name: digest(folder / name) for name in manifest.files}
    text = manifest.model_copy(update={"files": files}).model_dump_json()
    (folder / MANIFEST).write_text(text)


def tamper_weights(folder: Path) -> None:
    """Double the first number of the weights."""
    content = np.fromfile(folder / WEIGHTS, np.float32)
    content[: len(content) // 2] *= 1.01
    content.tofile(folder / WEIGHTS)


def tamper_golden(folder: Path) -> None:
    """Other logits."""
    with np.load(folder / "golden.npz") as golden:
        arrays = dict(golden)
    np.savez(folder / "golden.npz", pixels=arrays["pixels"], logits=arrays["logits"] + 1)


def tamper_tail(folder: Path) -> None:
    """A gradient that is a thousandth too large."""
    file = folder / "tail.stage2.onnx"
    model = onnx.load(file, load_external_data=False)
    for node in model.graph.node:
        node.output[:] = ["right" if name == "gradients" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1.001), "wrong"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["right", "wrong"], ["gradients"]))
    file.write_bytes(model.SerializeToString())


def truncate_trunk(folder: Path) -> None:
    """Half a file."""
    content = (folder / "trunk.onnx").read_bytes()
    (folder / "trunk.onnx").write_bytes(content[: len(content) // 2])


TAMPERINGS = [
    (tamper_weights, "logits"),
    (tamper_golden, "golden"),
    (tamper_tail, "stage2 gradients"),
    (truncate_trunk, "bundle"),
]


@pytest.mark.parametrize(("tamper", "where"), TAMPERINGS)
def test_a_tampered_bundle_fails(tmp_path: Path, tamper: Callable[[Path], None], where: str) -> None:
    """First by its hash, and where the hash was mended too, by what it computes."""
    folder = bundle(tmp_path)
    tamper(folder)
    (only,) = verify(folder, Classifier())
    assert not only.passed
    assert "SHA-256" in only.note
    sign(folder)
    failed = [check.name for check in verify(folder, Classifier()) if not check.passed]
    assert any(where in name for name in failed), failed
