"""The contract: what a bundle must be, and with what words it is refused."""

from pathlib import Path

import pytest

from percept.bundle.integrity import read_manifest
from percept.errors import BundleError
from tests.bundles import bundle, read_manifest, write_manifest

KERNELS = {"kind": "kernels", "file": "k.png", "tile": [3, 3], "channels": [0, 1]}
MAXIMA = KERNELS | {"kind": "maxima", "layer": "colour", "channels": [1], "scores": [1.5], "noise": [0.5]}
BREAKS = {
    "labels": (lambda m: m["labels"].pop(), "2 labels for 3 classes"),
    "same labels": (lambda m: m.update(labels=["a", "a", "b"]), "two labels are the same"),
    "rank": (lambda m: m.update(logits=[3, 8, 8]), "needs logits of 1 dimensions"),
    "palette": (lambda m: m.update(palette=[[0, 0, 0]]), "1 colours for 3 classes"),
    "background": (lambda m: m.update(background=3), "background 3 is not a class"),
    "cam layer": (lambda m: m.update(cam_layer="body"), "CAM layer 'body'"),
    "hash": (lambda m: m["files"].pop("trunk.onnx"), "files without a hash: ['trunk.onnx']"),
    "layer names": (lambda m: m["layers"].append(m["layers"][0]), "two layers have the same name"),
    "tail and reason": (lambda m: m["layers"][0].update(unavailable="why"), "either a tail or the reason"),
    "task": (lambda m: m.update(task="detection"), "task"),
    "unknown field": (lambda m: m.update(colour="blue"), "colour"),
    "way out": (lambda m: m.update(trunk="../trunk.onnx"), "not the name of a file inside the bundle"),
    "absolute": (lambda m: m["files"].update({"/etc/passwd": "0" * 64}), "not the name of a file inside"),
    "crop": (lambda m: m["preprocessing"].update(resize="crop"), "a crop needs a short_side"),
    "format": (lambda m: m.update(format=2), "format"),
    "filters without a file": (lambda m: m.update(filters=[KERNELS]), "files without a hash: ['k.png']"),
    "filters of no layer": (lambda m: m.update(filters=[{**MAXIMA, "layer": "body"}]), "that no layer has"),
    "filters of no channel": (lambda m: m.update(filters=[{**MAXIMA, "channels": [3]}]), "that no layer has"),
    "filters twice": (lambda m: m.update(filters=[KERNELS, KERNELS]), "drawn twice"),
    "filters without scores": (lambda m: m.update(filters=[{**MAXIMA, "scores": []}]), "1 channels, 0 scores"),
    "kernels of a layer": (lambda m: m.update(filters=[{**KERNELS, "layer": "colour"}]), "kernels of none"),
    "a huge tile": (lambda m: m.update(filters=[{**KERNELS, "tile": [4096, 3]}]), "filters.0.tile.0"),
    "name": (lambda m: m.update(name="other"), "is other/1, which is another folder"),
    "version": (lambda m: m.update(version=2), "is marker/2, which is another folder"),
}


def test_a_bundle_that_keeps_the_contract_is_read(tmp_path: Path) -> None:
    manifest = read_manifest(bundle(tmp_path))
    assert (manifest.name, manifest.version, manifest.task) == ("marker", 1, "classification")
    assert manifest.layer("colour") is manifest.layers[0]
    assert manifest.layer("body") is None


@pytest.mark.parametrize("name", BREAKS)
def test_a_manifest_that_breaks_the_contract_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    manifest = read_manifest(folder)
    breaks, reason = BREAKS[name]
    breaks(manifest)
    write_manifest(folder, manifest)
    with pytest.raises(BundleError) as caught:
        read_manifest(folder)
    assert reason in str(caught.value)


@pytest.mark.parametrize("file", ["trunk.onnx", "tail.colour.onnx", "golden.npz"])
def test_an_altered_file_is_refused_by_name(file: str, tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    with pytest.raises(BundleError, match=f"{file} is not the file"):
        read_manifest(folder)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    (folder / "golden.npz").unlink()
    with pytest.raises(BundleError, match=r"golden.npz cannot be read: No such file"):
        read_manifest(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}'])
def test_a_half_written_manifest_is_refused(text: str, tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match="does not keep the contract"):
        read_manifest(folder)


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest.json cannot be read"):
        read_manifest(tmp_path)


def test_tf32_is_off_unless_it_is_allowed_in_one_word(tmp_path: Path) -> None:
    """A manifest from before there was the field stays valid."""
    folder = bundle(tmp_path)
    manifest = read_manifest(folder)
    assert "tf32" not in manifest
    assert read_manifest(folder).tf32 is False
    write_manifest(folder, manifest | {"tf32": True})
    assert read_manifest(folder).tf32 is True
    write_manifest(folder, manifest | {"tf32": "yes"})
    with pytest.raises(BundleError, match="tf32"):
        read_manifest(folder)
