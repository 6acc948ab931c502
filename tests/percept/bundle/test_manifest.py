"""The manifest: which manifests are valid, and the reason that each invalid one is rejected with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from percept.bundle.manifest import Manifest
from percept.bundle.preprocessing import Preprocessing
from percept.errors import format_validation_errors
from tests.bundles import create_bundle, read_manifest_json

KERNELS = {"kind": "kernels", "file": "k.png", "tile": [3, 3], "channels": [0, 1]}
MAXIMA = KERNELS | {"kind": "maxima", "layer": "colour", "channels": [1], "scores": [1.5], "noise": [0.5]}
INVALID_CHANGES = {
    "labels": (lambda m: m["labels"].pop(), "2 labels for 3 classes"),
    "same labels": (lambda m: m.update(labels=["a", "a", "b"]), "two labels are the same"),
    "rank": (lambda m: m.update(logits=[3, 8, 8]), "needs logits of 1 dimensions"),
    "palette": (lambda m: m.update(palette=[[0, 0, 0]]), "1 colours for 3 classes"),
    "background": (lambda m: m.update(background=3), "background 3 is not a class"),
    "cam layer": (lambda m: m.update(cam_layer="body"), "CAM layer 'body'"),
    "hash": (lambda m: m["files"].pop("trunk.onnx"), "files without a hash: ['trunk.onnx']"),
    "layer names": (lambda m: m["layers"].append(m["layers"][0]), "two layers have the same name"),
    "alias of another layer": (lambda m: m["layers"][0].update(aliases=["colour"]), "two layers have the same name"),
    "control characters": (lambda m: m["layers"][0].update(name="a\x1b[2J"), "contains control characters"),
    "tail and reason": (lambda m: m["layers"][0].update(unavailable="why"), "needs either 'tail' or 'unavailable'"),
    "task": (lambda m: m.update(task="detection"), "task"),
    "unknown field": (lambda m: m.update(colour="blue"), "colour"),
    "parent folder": (lambda m: m.update(trunk="../trunk.onnx"), "not the name of a file inside the bundle"),
    "absolute path": (lambda m: m["files"].update({"/etc/passwd": "0" * 64}), "not the name of a file inside"),
    "crop": (lambda m: m["preprocessing"].update(resize="crop"), "needs a short_side"),
    "format": (lambda m: m.update(format=2), "format"),
    "filters without a file": (lambda m: m.update(filters=[KERNELS]), "files without a hash: ['k.png']"),
    "filters of no layer": (
        lambda m: m.update(filters=[{**MAXIMA, "layer": "body"}]),
        "layer or channel that does not exist",
    ),
    "filters of no channel": (
        lambda m: m.update(filters=[{**MAXIMA, "channels": [3]}]),
        "layer or channel that does not exist",
    ),
    "filters twice": (lambda m: m.update(filters=[KERNELS, KERNELS]), "two filter pictures of one kind"),
    "filters without scores": (lambda m: m.update(filters=[{**MAXIMA, "scores": []}]), "1 channels, 0 scores"),
    "kernels of a layer": (lambda m: m.update(filters=[{**KERNELS, "layer": "colour"}]), "kernels must have none"),
    "huge tile": (lambda m: m.update(filters=[{**KERNELS, "tile": [4096, 3]}]), "filters.0.tile.0"),
}


@pytest.fixture
def valid(tmp_path: Path) -> dict[str, Any]:
    """The JSON of a valid manifest."""
    return read_manifest_json(create_bundle(tmp_path))


def test_valid_manifest_finds_layers_by_name(valid: dict[str, Any]) -> None:
    manifest = Manifest.model_validate(valid)
    assert (manifest.name, manifest.version, manifest.task) == ("marker", 1, "classification")
    assert manifest.layer("colour") is manifest.layers[0]
    assert manifest.layer("body") is None


def test_valid_manifest_finds_layers_by_alias(valid: dict[str, Any]) -> None:
    valid["layers"][0]["aliases"] = ["clip_162"]
    manifest = Manifest.model_validate(valid)
    assert manifest.layer("clip_162") is manifest.layer("colour")


@pytest.mark.parametrize(("change", "reason"), INVALID_CHANGES.values(), ids=INVALID_CHANGES)
def test_invalid_manifest_is_rejected_with_the_reason(
    valid: dict[str, Any], change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    change(valid)
    with pytest.raises(ValidationError) as caught:
        Manifest.model_validate(valid)
    assert reason in format_validation_errors(caught.value)


def test_tf32_is_off_unless_set_to_true(valid: dict[str, Any]) -> None:
    """Manifests written before the field existed stay valid."""
    assert "tf32" not in valid
    assert Manifest.model_validate(valid).tf32 is False
    assert Manifest.model_validate(valid | {"tf32": True}).tf32 is True
    with pytest.raises(ValidationError, match="tf32"):
        Manifest.model_validate(valid | {"tf32": "yes"})


def test_blank_colour_is_rgb_for_any_channel_order() -> None:
    preprocessing = Preprocessing(height=8, width=8, mean=(1, 2, 3))
    assert preprocessing.blank == (1, 2, 3)
    assert preprocessing.model_copy(update={"channels": "BGR"}).blank == (3, 2, 1)
