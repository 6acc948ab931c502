"""What `verify` accepts, and what it must never accept."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from percept.bundle.manifest import MANIFEST, Manifest, digest
from percept_models.export.weights import WEIGHTS
from percept_models.verify.checks import GRADIENT_LIMIT, JUMP_LIMIT, JUMPS, table, verify
from tests.percept_models.networks import HOW, PYRAMID, Classifier, Pyramid, bundle


def test_a_bundle_passes_against_its_network(tmp_path: Path) -> None:
    """Files, golden input, logits, and for each layer activations, tail logits and gradients."""
    checks = verify(bundle(tmp_path), Classifier())
    assert len(checks) == 3 + 3 * 3
    assert all(check.passed for check in checks), table(checks)
    assert "FAIL" not in table(checks)


def test_a_bundle_passes_by_itself(tmp_path: Path) -> None:
    """Without a network, the tails must agree with the trunk, and gradients with finite differences."""
    checks = verify(bundle(tmp_path, Pyramid(), **PYRAMID))
    assert len(checks) == 2 + 4 * 2
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


def tamper_tail(folder: Path, factor: float = 1.001) -> None:
    """A gradient that is a thousandth too large."""
    file = folder / "tail.stage2.onnx"
    model = onnx.load(file, load_external_data=False)
    for node in model.graph.node:
        node.output[:] = ["right" if name == "gradients" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "wrong"))
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


def test_a_wrong_gradient_is_found_without_a_network(tmp_path: Path) -> None:
    """Finite differences know no more than the tail's own logits."""
    folder = bundle(tmp_path)
    tamper_tail(folder, factor=1.2)
    sign(folder)
    assert [check.name for check in verify(folder) if not check.passed] == ["stage2 gradients by differences"]


class Brittle(nn.Module):
    """On a picture of one colour every ReLU gets 0, up to rounding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 1)
        self.edges = nn.Conv2d(8, 64, 3, bias=False)
        self.edges.weight.data -= self.edges.weight.data.mean((2, 3), keepdim=True)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.head(torch.relu(self.edges(self.stem(x))).mean((2, 3)))


def test_where_rounding_decides_the_gradients_the_limit_is_that_of_torch(tmp_path: Path) -> None:
    """And the table says so."""
    folder = bundle(tmp_path, Brittle(), layers=("stem", "edges"), cam_layer="edges")
    colours = np.random.default_rng(0).integers(0, 256, (8, 1, 1, 3), np.uint8)
    plain = np.broadcast_to(colours, (8, HOW.height, HOW.width, 3)).copy()
    checks = {check.name: check for check in verify(folder, Brittle(), plain)}
    assert checks["stem gradients"].note == JUMPS
    assert checks["stem gradients"].limit > 100 * GRADIENT_LIMIT
    assert checks["stem gradients"].limit <= JUMP_LIMIT
    assert checks["edges gradients"].limit == GRADIENT_LIMIT
    assert verify(folder, Brittle())[-4].limit == GRADIENT_LIMIT
