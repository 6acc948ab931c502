"""TODO: what comes in, what leaves."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import (
    ValidationError,
)

from percept.bundle.manifest import MANIFEST, Manifest
from percept.errors import BundleError


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a bundle, and the hash of every file that it names.

    Raises `BundleError` with the reason: unreadable, not keeping the contract, standing in the wrong folder,
    or with a file that is missing or altered.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise BundleError(f"{MANIFEST} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, e['loc'])) or 'manifest'}: {e['msg']}" for e in error.errors())
        raise BundleError(f"{MANIFEST} does not keep the contract: {'; '.join(faults)}") from error
    if (folder.parent.name, folder.name) != (manifest.name, str(manifest.version)):
        raise BundleError(f"it says that it is {manifest.name}/{manifest.version}, which is another folder")
    check_files(folder, manifest, manifest.files)
    return manifest


def check_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Raise `BundleError` where a file is missing, or is not the one that the manifest describes."""
    for name in names:
        if digest(folder / name) != manifest.files[name]:
            raise BundleError(f"{name} is not the file that the manifest describes (SHA-256 differs)")


def digest(file: Path) -> str:
    """The SHA-256 of a file in hexadecimal; raises `BundleError` where it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{file.name} cannot be read: {error.strerror}") from error
