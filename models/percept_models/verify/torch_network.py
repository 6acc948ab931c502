"""A bundle against its torch network: logits, activations and gradients, layer by layer.

Every tail gets the activations that torch computed, so that an error of the trunk is not counted twice.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from percept.bundle.manifest import Layer
from percept_models.autodiff.tail import GRADIENTS, LOGITS
from percept_models.graph.reader import Array
from percept_models.sources.trunk import Trunk
from percept_models.verify.checks import LIMIT, Check, check_activations, check_gradients, difference
from percept_models.verify.runner import BundleRunner

JUMP_LIMIT = 0.1  # the greatest error of a gradient that rounding may excuse, however far torch's own gradients move
LAYER_MEANS = "layers' means: image"  # name of the check of the gradients of the layers' means at the image
JUMP_NOTE = "the limit is how far torch's own gradients move when the image moves by a millionth"


def check_against_torch(runner: BundleRunner, network: nn.Module) -> Iterator[Check]:
    """Compare the logits, and at each layer the activations, the tail's logits and its gradients."""
    names = [layer.name for layer in runner.manifest.layers]
    module = Trunk(network.cpu(), runner.manifest.preprocessing, names).float().requires_grad_(True)
    expected, gradients = _run_torch(module, runner)
    yield Check("logits", difference(runner.outputs[LOGITS], expected[LOGITS]), LIMIT)
    jumps: dict[str, list[float]] = {}
    for layer in runner.manifest.layers:
        yield check_activations(layer, runner.outputs, expected)
        if not layer.tail:
            continue
        outputs = runner.outputs | {layer.name: expected[layer.name]}
        tail = runner.run_tail(layer, outputs, runner.seed)
        yield Check(f"{layer.name} tail logits", difference(tail[LOGITS], expected[LOGITS]), LIMIT)
        for name, g in _tail_gradients(runner, layer, outputs, tail).items():
            check = check_gradients(name, g, gradients[name])
            if not check.passed:
                jumps = jumps or _measure_jumps(module, runner, gradients)
                check = _allow_jumps(check, jumps[name])
            yield check


def _tail_gradients(
    runner: BundleRunner, layer: Layer, outputs: dict[str, Array], tail: dict[str, Array]
) -> dict[str, Array]:
    """The gradients of a tail by the name of their check; those of the layers' means too, if the tail has seeds."""
    gradients = {layer.name: tail[GRADIENTS]}
    if layer.tail and layer.tail.seeds:
        means = runner.run_tail(layer, outputs, 0 * runner.seed, layer_means=True)
        gradients[LAYER_MEANS] = means[GRADIENTS]
    return gradients


def _run_torch(module: Trunk, runner: BundleRunner) -> tuple[dict[str, Array], dict[str, Array]]:
    """The outputs of torch by name, and its gradients by the name of their check."""
    logits, *taps = module(torch.from_numpy(runner.pixels))
    activations = dict(zip(module.layers, taps, strict=True))
    g = torch.autograd.grad((logits * torch.from_numpy(runner.seed)).sum(), taps, retain_graph=True)
    gradients = dict(zip(module.layers, map(_to_array, g), strict=True))
    for layer in runner.layers_with_tails:
        if layer.tail and layer.tail.seeds:
            means = [activations[name].mean((1, 2, 3)) for name in layer.tail.seeds]
            (g_means,) = torch.autograd.grad(torch.stack(means).sum(), activations[layer.name])
            gradients[LAYER_MEANS] = _to_array(g_means)
    return {LOGITS: _to_array(logits)} | {name: _to_array(tap) for name, tap in activations.items()}, gradients


def _measure_jumps(module: Trunk, runner: BundleRunner, gradients: dict[str, Array]) -> dict[str, list[float]]:
    """By check and image, how far torch's own gradients move when the network's input moves by a millionth."""
    module.mean += 1e-6 * module.std
    moved = _run_torch(module, runner)[1]
    return {name: [difference(*pair) for pair in zip(moved[name], g, strict=True)] for name, g in gradients.items()}


def _allow_jumps(check: Check, jumps: list[float]) -> Check:
    """A check whose limit is the median jump of torch's own gradients, at most `JUMP_LIMIT`."""
    allowed = min(float(np.median(jumps)), JUMP_LIMIT)
    return replace(check, limit=max(check.limit, allowed), note=JUMP_NOTE)


def _to_array(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().numpy())
