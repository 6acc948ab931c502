"""Reading a bundle: a valid one gives its manifest, an invalid or altered one is rejected with the reason."""

from pathlib import Path

import pytest

from percept.bundle.integrity import check_files, digest, read_manifest
from percept.errors import BundleError
from tests.bundles import create_bundle, read_manifest_json, write_manifest


def test_valid_bundle_is_read(tmp_path: Path) -> None:
    manifest = read_manifest(create_bundle(tmp_path))
    assert (manifest.name, manifest.version, manifest.task) == ("marker", 1, "classification")


def test_invalid_manifest_is_rejected(tmp_path: Path) -> None:
    folder = create_bundle(tmp_path)
    write_manifest(folder, read_manifest_json(folder) | {"labels": ["a"]})
    with pytest.raises(BundleError, match=r"manifest\.json violates the contract: .*1 labels for 3 classes"):
        read_manifest(folder)


@pytest.mark.parametrize(("change", "owner"), [({"name": "other"}, "other/1"), ({"version": 2}, "marker/2")])
def test_manifest_of_another_folder_is_rejected(tmp_path: Path, change: dict[str, object], owner: str) -> None:
    folder = create_bundle(tmp_path)
    write_manifest(folder, read_manifest_json(folder) | change)
    with pytest.raises(
        BundleError, match=f"describes {owner}: the bundle must be in a folder of that name, not in mark"
    ):
        read_manifest(folder)


@pytest.mark.parametrize("file", ["trunk.onnx", "tail.colour.onnx", "golden.npz"])
def test_altered_file_is_rejected_by_name(file: str, tmp_path: Path) -> None:
    folder = create_bundle(tmp_path)
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    with pytest.raises(BundleError, match=f"{file} is not the file"):
        read_manifest(folder)


def test_missing_file_is_rejected_by_name(tmp_path: Path) -> None:
    folder = create_bundle(tmp_path)
    (folder / "golden.npz").unlink()
    with pytest.raises(BundleError, match=r"golden.npz cannot be read: No such file"):
        read_manifest(folder)


def test_only_the_named_files_are_checked(tmp_path: Path) -> None:
    folder = create_bundle(tmp_path)
    manifest = read_manifest(folder)
    (folder / "trunk.onnx").write_bytes(b"altered")
    check_files(folder, manifest, ["golden.npz"])
    with pytest.raises(BundleError, match=r"trunk\.onnx"):
        check_files(folder, manifest, ["golden.npz", "trunk.onnx"])


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}'])
def test_incomplete_manifest_is_rejected(text: str, tmp_path: Path) -> None:
    folder = create_bundle(tmp_path)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match="violates the contract"):
        read_manifest(folder)


def test_folder_without_manifest_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest.json cannot be read"):
        read_manifest(tmp_path)


def test_digest_is_the_sha256_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "abc"
    file.write_bytes(b"abc")
    assert digest(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
