"""Layers before an operator that has no reverse-mode rule."""

from pathlib import Path

from percept.bundle.integrity import read_manifest
from tests.percept_models.networks import ProductClassifier, export_bundle


def test_layer_before_an_unsupported_operator_has_no_tail(tmp_path: Path) -> None:
    """The manifest names the operator; other layers have their tails."""
    layers = ("stage1", "stage2")
    folder = export_bundle(tmp_path, ProductClassifier(), labels=("a", "b"), layers=layers, cam_layer="stage2")
    first, second = read_manifest(folder).layers
    assert first.tail is None
    assert "ReduceProd" in (first.unavailable or "")
    assert second.tail is not None
