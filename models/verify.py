"""A bundle against the truth: does it compute what the network computes, here and now?

In comes a bundle's folder and, where there is one, the torch network; out goes a list of checks, each an error
and the limit below which it passes. An error is max|a - b| / max|b|, b being the truth.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.autodiff import ACTIVATIONS, GRADIENTS, SEED
from models.graph import Array, run
from models.trunk import LOGITS, PIXELS, Trunk
from service.errors import PerceptError
from service.manifest import Layer, Manifest, read

LIMIT = 1e-4  # of logits and activations: whole networks deep
GRADIENT_LIMIT = 1e-5  # of a tail, on the same activations


@dataclass(frozen=True)
class Check:
    """What was compared, how far apart it was, and how far apart it may be."""

    name: str
    error: float
    limit: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is a number within the limit."""
        return self.error <= self.limit


def difference(found: Array, truth: Array) -> float:
    """max|found - truth| / max|truth|; infinite where the shapes differ or something is not finite."""
    if found.shape != truth.shape or not (np.isfinite(found).all() and np.isfinite(truth).all()):
        return inf
    scale = float(np.abs(truth).max(initial=0.0)) or 1.0
    return float(np.abs(found.astype(np.float64) - truth).max(initial=0.0)) / scale


def verify(bundle: Path, network: nn.Module | None = None) -> list[Check]:
    """Check a bundle's files, its golden input, its tails against its trunk and, given a network, all against torch.

    A bundle that cannot be read or run gives a failed check with the reason, never an exception.
    """
    try:
        return list(_checks(bundle, network))
    except PerceptError as error:
        return [Check("bundle", inf, 0.0, str(error))]


def table(checks: Sequence[Check]) -> str:
    """The checks as text, one to a line."""
    width = max(len(check.name) for check in checks)
    lines = (
        f"{'ok  ' if c.passed else 'FAIL'}  {c.name:<{width}}  {c.error:8.1e} <= {c.limit:.0e}  {c.note}"
        for c in checks
    )
    return "\n".join(line.rstrip() for line in lines)


def _checks(bundle: Path, network: nn.Module | None) -> Iterator[Check]:
    manifest = read(bundle)
    yield Check("files", 0.0, 0.0, f"{len(manifest.files)} as described")
    with np.load(bundle / manifest.golden.file) as stored:
        pixels, logits = stored["pixels"], stored["logits"]
    answer = run(bundle / manifest.trunk, {PIXELS: pixels})
    yield Check("golden input", difference(answer[LOGITS], logits), manifest.golden.tolerance)
    batch = _pictures(pixels)
    trunk = run(bundle / manifest.trunk, {PIXELS: batch})
    tails = [layer for layer in manifest.layers if layer.tail]
    seed = np.random.default_rng(0).uniform(-1, 1, trunk[LOGITS].shape).astype(np.float32)
    if network is None:
        for layer in tails:
            found = _tail(bundle, layer, trunk, seed)[LOGITS]
            yield Check(f"{layer.name} tail logits", difference(found, trunk[LOGITS]), LIMIT)
        return
    yield from _against(bundle, manifest, network, batch, trunk, seed)


def _against(
    bundle: Path,
    manifest: Manifest,
    network: nn.Module,
    batch: Array,
    trunk: dict[str, Array],
    seed: Array,
) -> Iterator[Check]:
    """The checks against torch, layer by layer."""
    names = [layer.name for layer in manifest.layers]
    module = Trunk(network.cpu(), manifest.preprocessing, names).float().requires_grad_(True)
    truth, *taps = module(torch.from_numpy(batch))
    yield Check("logits", difference(trunk[LOGITS], _array(truth)), LIMIT)
    gradients = torch.autograd.grad((truth * torch.from_numpy(seed)).sum(), taps)
    for layer, tap, gradient in zip(manifest.layers, taps, gradients, strict=True):
        error = difference(trunk[layer.name], _array(tap))
        yield Check(f"{layer.name} activations", error, LIMIT, layer.unavailable or "")
        if layer.tail:
            found = _tail(bundle, layer, trunk | {layer.name: _array(tap)}, seed)
            yield Check(f"{layer.name} tail logits", difference(found[LOGITS], _array(truth)), LIMIT)
            yield _gradients(layer, found[GRADIENTS], _array(gradient))


def _pictures(golden: Array) -> Array:
    """Eight pictures [8,H,W,3] made of one [1,H,W,3]: it and its negative, turned and with channels swapped."""
    turned = [golden, golden[:, ::-1], golden[:, :, ::-1], golden[..., ::-1]]
    return np.concatenate([*turned, *(255 - picture for picture in turned)])


def _gradients(layer: Layer, found: Array, truth: Array) -> Check:
    """The error on the picture where it is least, and on how many it is beyond the limit.

    A gradient jumps where the input of a ReLU is 0, and of the millions of cells of a picture rounding alone puts
    one on the other side every now and then. A wrong rule is wrong on every picture.
    """
    errors = [difference(*pair) for pair in zip(found, truth, strict=True)]
    beyond = sum(error > GRADIENT_LIMIT for error in errors)
    note = f"beyond it on {beyond} of {len(errors)} pictures" if beyond else ""
    return Check(f"{layer.name} gradients", min(errors), GRADIENT_LIMIT, note)


def _array(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().numpy())


def _tail(bundle: Path, layer: Layer, trunk: dict[str, Array], seed: Array) -> dict[str, Array]:
    """Run the tail of a layer on what the trunk gave."""
    assert layer.tail is not None
    feeds = {name: trunk[name] for name in layer.tail.crossing}
    return run(bundle / layer.tail.file, {ACTIVATIONS: trunk[layer.name], SEED: seed} | feeds)
