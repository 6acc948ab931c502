"""Reading a bundle's manifest, and checking its files against the SHA-256 hashes that the manifest states.

The folder of a bundle comes in; its `Manifest` leaves, or a `BundleError` with the reason. It opens no ONNX graph.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from percept.bundle.manifest import MANIFEST, Manifest
from percept.errors import BundleError, format_validation_errors


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, after checking it and the hash of every file that it names.

    Raises `BundleError` if the manifest cannot be read, violates the contract or is in the wrong folder, and if a file
    is missing or altered.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise BundleError(f"{MANIFEST} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise BundleError(f"{MANIFEST} violates the contract: {format_validation_errors(error)}") from error
    if (folder.parent.name, folder.name) != (manifest.name, str(manifest.version)):
        raise BundleError(
            f"{MANIFEST} describes {manifest.name}/{manifest.version}: "
            f"the bundle must be in a folder of that name, not in {folder.parent.name}/{folder.name}"
        )
    check_files(folder, manifest, manifest.files)
    return manifest


def check_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Raise `BundleError` if one of these files is missing, or if its hash differs from the manifest's."""
    for name in names:
        if digest(folder / name) != manifest.files[name]:
            raise BundleError(f"{name} is not the file that the manifest describes (SHA-256 differs)")


def digest(file: Path) -> str:
    """The SHA-256 of a file in hexadecimal; raises `BundleError` if the file cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{file.name} cannot be read: {error.strerror}") from error
