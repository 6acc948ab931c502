"""Reading a bundle's manifest, and checking its files against the SHA-256 hashes that the manifest states.

In comes the folder of a bundle; out comes its `Manifest`, or a `BundleError` with the reason. It opens no ONNX graph.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from percept.bundle.manifest import MANIFEST, Manifest
from percept.errors import BundleError, format_validation_errors


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, after checking it and the hash of every file that it names.

    Raises `BundleError` where the manifest cannot be read, breaks the contract or lies in the wrong folder, and where
    a file is missing or altered.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise BundleError(f"{MANIFEST} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise BundleError(f"{MANIFEST} breaks the contract: {format_validation_errors(error)}") from error
    if (folder.parent.name, folder.name) != (manifest.name, str(manifest.version)):
        raise BundleError(
            f"{MANIFEST} is that of {manifest.name}/{manifest.version}: "
            f"the bundle must lie in a folder of that name, not in {folder.parent.name}/{folder.name}"
        )
    check_files(folder, manifest, manifest.files)
    return manifest


def check_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Raise `BundleError` where one of these files is missing, or its hash differs from the manifest's."""
    for name in names:
        if digest(folder / name) != manifest.files[name]:
            raise BundleError(f"{name} is not the file that the manifest describes (SHA-256 differs)")


def digest(file: Path) -> str:
    """The SHA-256 of a file in hexadecimal; raises `BundleError` where the file cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{file.name} cannot be read: {error.strerror}") from error
