"""A bundle against the truth: does it compute what the network computes, here and now?

In comes a bundle's folder and, where there is one, the truth: the torch network, or whatever else can answer. Out
goes a list of checks, each an error and the limit below which it passes. An error is max|a - b| / max|b|, b being the
truth.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from percept.bundle.manifest import Layer, Manifest, Precision, read, seed_name
from percept.errors import PerceptError
from percept.runtime.session import Device, Session, Tuning, resolve
from percept_models.autodiff.reverse import ACTIVATIONS, GRADIENTS, SEED
from percept_models.graph.reader import Array, run
from percept_models.sources.trunk import LOGITS, PIXELS, Trunk

LIMIT = 1e-4  # of logits and activations: whole networks deep
GRADIENT_LIMIT = 1e-5  # of a tail, on the same activations
DIFFERENCE_LIMIT = 5e-2  # of a slope in float32: rounding and kinks
JUMP_LIMIT = 0.1  # that rounding may claim of a gradient, whatever torch's own do
CUDA_LIMIT = 1e-3  # its kernels sum in another order
CUDA_GRADIENT_LIMIT = 1e-2  # so other cells of a ReLU are switched
LIMITS: dict[Precision, float] = {"float32": LIMIT, "float16": 3e-2, "int8": 0.3}
DISAGREEMENT_LIMIT = 0.05  # of the classes, of whole pictures or of pixels, in fewer bits
STEPS = (1e-2, 1e-3, 1e-4)  # of a difference, as shares of the activations
SLOPED = 3  # pictures on which slopes are measured

Answer = Callable[[Array], Mapping[str, Array]]  # uint8 [n,H,W,3] -> "logits", and layers by name
Truth = nn.Module | Answer | None
MEANS = "layers' means: image"
JUMPS = "the limit is what torch's own do when the image moves by a millionth"


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


def verify(bundle: Path, truth: Truth = None, pictures: Array | None = None) -> list[Check]:
    """Check a bundle's files, golden input, tails against trunk, CPU against CUDA and, given it, all against a truth.

    `truth` is the torch network, or gives the logits, and what else it knows by name, for pictures. `pictures` are
    uint8 [n,H,W,3]; without them eight are made of the golden input. A bundle that cannot be read or run
    gives a failed check with the reason, never an exception.
    """
    try:
        return list(_checks(bundle, truth, pictures))
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


def _checks(bundle: Path, truth: Truth, pictures: Array | None) -> Iterator[Check]:
    manifest = read(bundle)
    yield Check("files", 0.0, 0.0, f"{len(manifest.files)} as described")
    with np.load(bundle / manifest.golden.file) as stored:
        golden, logits = stored["pixels"], stored["logits"]
    found = run(bundle / manifest.trunk, {PIXELS: golden})[LOGITS]
    yield Check("golden input", difference(found, logits), manifest.golden.tolerance)
    one = Subject(bundle, manifest, golden if pictures is None else pictures)
    if isinstance(truth, nn.Module):
        yield from _against_torch(one, truth)
    else:
        yield from _against(one, truth(one.pixels) if truth else {})
    if resolve("auto") == "cuda":
        yield from _on_cuda(one)


class Subject:
    """The bundle that is being checked, with the pictures uint8 [n,H,W,3] on which it is."""

    def __init__(self, folder: Path, manifest: Manifest, pictures: Array) -> None:
        """One picture alone becomes eight."""
        self.manifest = manifest
        self.pixels = _eight(pictures) if len(pictures) == 1 else pictures
        self.folder = folder
        self.tails = [layer for layer in manifest.layers if layer.tail]
        self._sessions: dict[tuple[str, Device], Session] = {}
        self.answer = self.trunk()
        self.seed = np.random.default_rng(0).uniform(-1, 1, self.answer[LOGITS].shape).astype(np.float32)

    def trunk(self, device: Device = "cpu") -> dict[str, Array]:
        """All that the trunk gives."""
        return self._run(self.manifest.trunk, {PIXELS: self.pixels}, device)

    def tail(
        self, layer: Layer, given: Mapping[str, Array], seed: Array, device: Device = "cpu", means: bool = False
    ) -> dict[str, Array]:
        """What the tail of a layer gives for what a trunk gave; with `means` the layers on the way have seeds too.

        They are such that the mean of each is derived.
        """
        assert layer.tail is not None
        feeds = {name: given[name] for name in layer.tail.crossing}
        for name in layer.tail.seeds:
            weight = 1 / given[name][0].size if means else 0.0
            feeds[seed_name(name)] = np.full((1, 1, 1, 1), weight, np.float32)
        return self._run(layer.tail.file, {ACTIVATIONS: given[layer.name], SEED: seed, **feeds}, device)

    def _run(self, file: str, feeds: dict[str, Array], device: Device) -> dict[str, Array]:
        """All outputs of a graph of the bundle."""
        if (file, device) not in self._sessions:
            half = self.manifest.precision == "float16" and file == self.manifest.trunk
            self._sessions[file, device] = Session(
                self.folder / file, device, tuning=Tuning(tf32=self.manifest.tf32, half=half)
            )
        session = self._sessions[file, device]
        return session.run(feeds, list(session.outputs))


def _against_torch(one: Subject, network: nn.Module) -> Iterator[Check]:
    """Logits, activations and gradients, layer by layer; the tails get torch's own activations."""
    names = [layer.name for layer in one.manifest.layers]
    module = Trunk(network.cpu(), one.manifest.preprocessing, names).float().requires_grad_(True)
    truth, gradients = _by_torch(module, one)
    yield Check("logits", difference(one.answer[LOGITS], truth[LOGITS]), LIMIT)
    jumps: dict[str, list[float]] = {}
    for layer in one.manifest.layers:
        yield _activations(layer, one.answer, truth, LIMIT)
        if layer.tail:
            found = one.tail(layer, one.answer | {layer.name: truth[layer.name]}, one.seed)
            yield Check(f"{layer.name} tail logits", difference(found[LOGITS], truth[LOGITS]), LIMIT)
            asked = {layer.name: found[GRADIENTS]}
            if layer.tail.seeds:
                given = one.answer | {layer.name: truth[layer.name]}
                asked[MEANS] = one.tail(layer, given, 0 * one.seed, means=True)[GRADIENTS]
            for name, g in asked.items():
                check = _gradients(name, g, gradients[name])
                if not check.passed:
                    jumps = jumps or _jumps(module, one, gradients)
                    moved = min(float(np.median(jumps[name])), JUMP_LIMIT)
                    check = replace(check, limit=max(check.limit, moved), note=JUMPS)
                yield check


def _by_torch(module: Trunk, one: Subject) -> tuple[dict[str, Array], dict[str, Array]]:
    """What torch gives by name, and the gradients at every layer; at the image those of the layers' `MEANS` too."""
    logits, *taps = module(torch.from_numpy(one.pixels))
    known = dict(zip(module.layers, taps, strict=True))
    g = torch.autograd.grad((logits * torch.from_numpy(one.seed)).sum(), taps, retain_graph=True)
    gradients = dict(zip(module.layers, map(_array, g), strict=True))
    for layer in one.tails:
        if layer.tail and layer.tail.seeds:
            means = [known[name].mean((1, 2, 3)) for name in layer.tail.seeds]
            gradients[MEANS] = _array(torch.autograd.grad(torch.stack(means).sum(), known[layer.name])[0])
    return {LOGITS: _array(logits)} | {name: _array(tap) for name, tap in known.items()}, gradients


def _jumps(module: Trunk, one: Subject, gradients: dict[str, Array]) -> dict[str, list[float]]:
    """By layer and picture, how far torch's own gradients move when its input moves by a millionth."""
    module.mean += 1e-6 * module.std
    moved = _by_torch(module, one)[1]
    return {name: [difference(*pair) for pair in zip(moved[name], g, strict=True)] for name, g in gradients.items()}


def _against(one: Subject, truth: Mapping[str, Array]) -> Iterator[Check]:
    """Whatever the truth holds of logits and activations; tails on the true activations, else on the trunk's own."""
    limit = LIMITS[one.manifest.precision]
    if LOGITS in truth:
        yield Check("logits", difference(one.answer[LOGITS], truth[LOGITS]), limit)
        yield _predictions(one, truth[LOGITS])
    for layer in one.manifest.layers:
        if layer.name in truth:
            yield _activations(layer, one.answer, truth, limit)
        if layer.tail:
            whole = {LOGITS, layer.name, *layer.tail.crossing} <= set(truth)
            given = truth if whole else one.answer
            found = one.tail(layer, given, one.seed)[LOGITS]
            yield Check(f"{layer.name} tail logits", difference(found, given[LOGITS]), LIMIT if whole else limit)
            yield _slope(one, layer, given)


def _on_cuda(one: Subject) -> Iterator[Check]:
    """The same on CUDA as on the CPU."""
    tolerance = one.manifest.golden.tolerance
    limit, gradient_limit = max(CUDA_LIMIT, tolerance), max(CUDA_GRADIENT_LIMIT, tolerance if one.manifest.tf32 else 0)
    found = one.trunk("cuda")
    for name in (LOGITS, *(layer.name for layer in one.manifest.layers)):
        yield Check(f"{name} on CUDA", difference(found[name], one.answer[name]), limit)
    for layer in one.tails:
        expected, given = (one.tail(layer, one.answer, one.seed, device)[GRADIENTS] for device in ("cpu", "cuda"))
        yield replace(_gradients(layer.name, given, expected, gradient_limit), name=f"{layer.name} gradients on CUDA")


def _predictions(one: Subject, truth: Array) -> Check:
    """The share of pictures, or of their pixels, that get another class."""
    parted = float((one.answer[LOGITS].argmax(1) != truth.argmax(1)).mean())
    what = "pixels" if one.manifest.task == "segmentation" else "pictures"
    return Check("predictions", parted, DISAGREEMENT_LIMIT, f"the share of {what} with another class")


def _activations(layer: Layer, found: Mapping[str, Array], truth: Mapping[str, Array], limit: float) -> Check:
    error = difference(found[layer.name], truth[layer.name])
    return Check(f"{layer.name} activations", error, limit, layer.unavailable or "")


def _gradients(name: str, found: Array, truth: Array, limit: float = GRADIENT_LIMIT) -> Check:
    """The error on the picture where it is least, and on how many it is beyond the limit.

    A gradient jumps where the input of a ReLU is 0, and of the millions of cells of a picture rounding alone puts
    one on the other side every now and then, many layers deep on every picture. A wrong rule is wrong on all.
    """
    errors = [difference(*pair) for pair in zip(found, truth, strict=True)]
    beyond = sum(error > limit for error in errors)
    note = f"beyond it on {beyond} of {len(errors)} pictures" if beyond else ""
    return Check(f"{name} gradients", min(errors), limit, note)


def _slope(one: Subject, layer: Layer, given: Mapping[str, Array]) -> Check:
    """Gradients against slopes of sum(seed * logits), by central differences along all and half of the channels.

    The activations grow and shrink, so that those of a ReLU which are zero stay so. Of all steps and pictures the
    least error counts: a small step drowns in rounding, a large one crosses kinks.
    """
    given = {name: values[:SLOPED] for name, values in given.items()}
    seed, A = one.seed[:SLOPED], given[layer.name].astype(np.float64)
    g = one.tail(layer, given, seed)[GRADIENTS]
    half = np.random.default_rng(0).permutation(A.shape[1]) % 2

    def score(moved: Array) -> Array:
        return _dot(one.tail(layer, {**given, layer.name: moved.astype(np.float32)}, seed)[LOGITS], seed)

    worst = 0.0
    for way in (A, A * half[:, None, None]):
        expected = _dot(g, way)
        found = [(score(A + step * way) - score(A - step * way)) / (2 * step) for step in STEPS]
        worst = max(worst, float((np.abs(found - expected) / np.maximum(np.abs(expected), 1e-30)).min()))
    return Check(f"{layer.name} gradients by differences", worst, DIFFERENCE_LIMIT)


def _dot(a: Array, b: Array) -> Array:
    """The sum of products, picture by picture."""
    return np.asarray((a.astype(np.float64) * b).reshape(len(a), -1).sum(1))


def _eight(golden: Array) -> Array:
    """Eight pictures [8,H,W,3] made of one [1,H,W,3]: it and its negative, turned and with channels swapped."""
    turned = [golden, golden[:, ::-1], golden[:, :, ::-1], golden[..., ::-1]]
    return np.concatenate([*turned, *(255 - picture for picture in turned)])


def _array(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().numpy())
