"""`verify_bundle`: which bundles pass, and that a bundle that was tampered with never does."""

from collections.abc import Callable
from pathlib import Path

import pytest

from percept_models.verify.bundle import verify_bundle
from percept_models.verify.table import format_checks
from tests.percept_models.networks import PYRAMID, Classifier, Pyramid, export_bundle
from tests.percept_models.verify.tampering import (
    change_golden_logits,
    mix_images,
    scale_gradients,
    scale_weights,
    truncate_trunk,
    update_hashes,
)


def test_bundle_passes_against_its_network(tmp_path: Path) -> None:
    """Files, golden input, the trunk against itself, logits, own output; activations, tail logits, gradients."""
    checks = verify_bundle(export_bundle(tmp_path), Classifier())
    assert len(checks) == 7 + 3 * 3
    assert all(check.passed for check in checks), format_checks(checks)
    assert "FAIL" not in format_checks(checks)


def test_bundle_passes_without_a_reference(tmp_path: Path) -> None:
    """The tails agree with the trunk, and their gradients with finite differences."""
    checks = verify_bundle(export_bundle(tmp_path, Pyramid(), **PYRAMID))
    assert len(checks) == 5 + 4 * 3
    assert all(check.passed for check in checks), format_checks(checks)


TAMPERINGS = [
    (scale_weights, "logits"),
    (change_golden_logits, "golden"),
    (scale_gradients, "stage2 gradients"),
    (mix_images, "each image alone"),
    (truncate_trunk, "bundle"),
]


@pytest.mark.parametrize(("tamper", "failing"), TAMPERINGS)
def test_tampered_bundle_fails(tmp_path: Path, tamper: Callable[[Path], None], failing: str) -> None:
    """By its hash, and with a corrected hash by what it computes."""
    folder = export_bundle(tmp_path)
    tamper(folder)
    (check,) = verify_bundle(folder, Classifier())
    assert not check.passed
    assert "SHA-256" in check.note
    update_hashes(folder)
    failed = [check.name for check in verify_bundle(folder, Classifier()) if not check.passed]
    assert any(failing in name for name in failed), failed
