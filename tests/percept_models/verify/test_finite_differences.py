"""Gradients that are wrong are found by finite differences alone."""

from pathlib import Path

from percept_models.verify.bundle import verify_bundle
from tests.percept_models.networks import export_bundle
from tests.percept_models.verify.tampering import scale_gradients, update_hashes


def test_wrong_gradient_is_found_without_a_reference(tmp_path: Path) -> None:
    folder = export_bundle(tmp_path)
    scale_gradients(folder, factor=1.2)
    update_hashes(folder)
    failed = [check.name for check in verify_bundle(folder) if not check.passed]
    assert failed == ["stage2 gradients by differences"]
