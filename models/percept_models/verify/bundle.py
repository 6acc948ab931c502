"""All checks of a bundle: files, golden input, the reference or finite differences, and CUDA where it works.

In come the bundle's folder and, optionally, a reference and images; out comes a list of `Check`.
"""

from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

import numpy as np
from torch import nn

from percept.bundle.integrity import read_manifest
from percept.bundle.manifest import Manifest
from percept.errors import PerceptError
from percept.runtime.session import resolve_device
from percept_models.autodiff.tail import LOGITS
from percept_models.graph.execution import run
from percept_models.graph.reader import Array
from percept_models.sources.trunk import PIXELS
from percept_models.verify.checks import Check, difference
from percept_models.verify.cuda import check_cuda
from percept_models.verify.onnx_reference import Reference
from percept_models.verify.reference_outputs import check_against_outputs, check_trunk_against_itself
from percept_models.verify.runner import BundleRunner
from percept_models.verify.torch_network import check_against_torch


def verify_bundle(
    folder: Path,
    reference: Reference = None,
    pixels: Array | None = None,
    report: Callable[[Check], None] | None = None,
) -> list[Check]:
    """Check a bundle's files, golden input, tails against trunk, reference where one is given, and CUDA against CPU.

    `reference` is the torch network, or a function that gives the logits, and the layers that it knows, of images.
    `pixels` are images uint8 [N,H,W,C]; without them eight are made of the golden input. `report` gets each check when
    it is done. A bundle that cannot be read or run gives one more failed check with the reason; nothing is raised.
    """
    checks = []
    for check in _run_checks_safely(folder, reference, pixels):
        checks.append(check)
        if report:
            report(check)
    return checks


def _run_checks_safely(folder: Path, reference: Reference, pixels: Array | None) -> Iterator[Check]:
    try:
        yield from _run_checks(folder, reference, pixels)
    except PerceptError as error:
        yield Check("bundle", inf, 0.0, str(error))


def _run_checks(folder: Path, reference: Reference, pixels: Array | None) -> Iterator[Check]:
    manifest = read_manifest(folder)
    yield Check("files", 0.0, 0.0, f"{len(manifest.files)} as described")
    with np.load(folder / manifest.golden.file) as golden:
        golden_pixels, golden_logits = golden["pixels"], golden["logits"]
    yield _check_golden_input(folder, manifest, golden_pixels, golden_logits)
    runner = BundleRunner(folder, manifest, golden_pixels if pixels is None else pixels)
    yield from check_trunk_against_itself(runner)
    if isinstance(reference, nn.Module):
        yield from check_against_torch(runner, reference)
    else:
        yield from check_against_outputs(runner, reference(runner.pixels) if reference else {})
    if resolve_device("auto") == "cuda":
        yield from check_cuda(runner)


def _check_golden_input(folder: Path, manifest: Manifest, pixels: Array, logits: Array) -> Check:
    found = run(folder / manifest.trunk, {PIXELS: pixels})[LOGITS]
    return Check("golden input", difference(found, logits), manifest.golden.tolerance)
