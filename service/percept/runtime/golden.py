"""Checks that a loaded trunk reproduces the golden output of its bundle, on this machine and in every batch size.

The session of a trunk and its manifest come in; nothing leaves, or a `BundleError` with the difference.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from percept.bundle.manifest import Manifest
from percept.errors import BundleError, InferenceError
from percept.runtime.session import Session


def check_golden(trunk: Session, folder: Path, manifest: Manifest, batch_sizes: Sequence[int]) -> None:
    """Run the golden input once, then in every batch size with all outputs, and compare the logits.

    The first run in a batch size is slow, because ONNX Runtime plans and allocates: these runs do that before requests
    arrive. Raises `BundleError` if a run fails or the logits differ by more than the manifest's tolerance.
    """
    pixels, expected = _read_golden(folder / manifest.golden.file)
    _compare(trunk, pixels, expected, ["logits"], manifest.golden.tolerance)
    for size in reversed(batch_sizes):
        batch, logits = (np.repeat(array[:1], size, axis=0) for array in (pixels, expected))
        _compare(trunk, batch, logits, list(trunk.outputs), manifest.golden.tolerance)


def _compare(
    trunk: Session, pixels: NDArray[Any], expected: NDArray[Any], outputs: Sequence[str], tolerance: float
) -> None:
    try:
        logits = trunk.run({"pixels": pixels}, outputs)["logits"]
    except InferenceError as error:
        raise BundleError(f"the golden input cannot be run: {error}") from error
    if logits.shape != expected.shape:
        raise BundleError(f"the golden logits have the shape {expected.shape}, those of the trunk {logits.shape}")
    difference = float(np.abs(logits - expected).max() / max(np.abs(expected).max(), 1e-12))
    if not difference <= tolerance:
        raise BundleError(
            f"the golden output is not reproduced: the difference is {difference:.2g} of the largest logit, "
            f"{tolerance:.2g} is allowed"
        )


def _read_golden(file: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        with np.load(BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            return arrays["pixels"], arrays["logits"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise BundleError(f"{file.name} does not contain a golden input: {error}") from error
