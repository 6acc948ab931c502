"""A bundle against its torch network: logits, activations and gradients, layer by layer.

Torch in float64 is the arbiter, because torch in float32 rounds as ONNX Runtime does: where the network amplifies
rounding, torch's own error in float32 is the limit. Every tail gets the activations that torch computed, so that an
error of the trunk is not counted twice.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from percept.bundle.manifest import IMAGE, Layer
from percept.errors import BundleError
from percept_models.autodiff.tail import GRADIENTS, LOGITS
from percept_models.graph.execution import run
from percept_models.graph.layout import Layout
from percept_models.graph.reader import Array
from percept_models.importer.scores import output_error
from percept_models.sources.trunk import PIXELS, Trunk, arrange_output, example_pixels, run_network
from percept_models.verify.checks import (
    LIMIT,
    MILLIONTH,
    Check,
    allow_jumps,
    allow_rounding,
    check_activations,
    check_gradients,
    difference,
    differences,
)
from percept_models.verify.runner import BundleRunner, mean_weights

LAYER_MEANS = "layers' means: image"  # name of the check of the gradients of the layers' means at the image
FLOPS = 6e10  # of one forward pass over all images; a network with more gets fewer images, but at least `MIN_IMAGES`
MIN_IMAGES = 3
ROUNDING_NOTE = "the limit is torch's own error in float32"


def check_against_torch(runner: BundleRunner, network: nn.Module) -> Iterator[Check]:
    """Compare the logits, the network's own output, and at each layer the activations, the tail's logits and gradients.

    The own output is that of the untouched network, with the softmax, sigmoid or argmax that the bundle has no longer.
    """
    names = [layer.name for layer in runner.manifest.layers]
    manifest = runner.manifest
    layouts = {layer.name: Layout(layer.layout, *layer.shape) for layer in manifest.layers}
    module = Trunk(network.cpu(), manifest.preprocessing, names, manifest.head, manifest.logits, layouts)
    if runner.augmented:
        runner = runner.first_images(_affordable_images(module.float(), runner.pixels))
    torch_runs = TorchRuns(module.requires_grad_(True), runner)
    expected = torch_runs.exact
    yield torch_runs.judge(Check("logits", difference(runner.outputs[LOGITS], expected[LOGITS]), LIMIT), LOGITS)
    yield torch_runs.judge(_check_own_output(runner, network), LOGITS)
    for layer in runner.manifest.layers:
        yield torch_runs.judge(check_activations(layer, runner.outputs, expected), layer.name)
        if not layer.tail:
            continue
        outputs = runner.outputs | {layer.name: expected[layer.name].astype(np.float32)}
        tail = runner.run_tail(layer, outputs, runner.seed)
        error = difference(tail[LOGITS], expected[LOGITS])
        yield torch_runs.judge(Check(f"{layer.name} tail logits", error, LIMIT), LOGITS)
        for name, g in _tail_gradients(runner, layer, outputs, tail).items():
            yield torch_runs.judge_gradients(check_gradients(name, g, expected[f"{name} gradients"]))


def _check_own_output(runner: BundleRunner, network: nn.Module) -> Check:
    """Compare what the untouched network returns with what its activation makes of the logits, also for noise."""
    manifest, head = runner.manifest, runner.manifest.head
    noise = example_pixels(manifest.preprocessing)
    pixels = torch.cat([torch.from_numpy(runner.pixels[:MIN_IMAGES]), noise])
    output = run_network(copy.deepcopy(network).float(), manifest.preprocessing, pixels, head.output).tensor
    expected = arrange_output(output, head, manifest.logits, len(pixels)).numpy()
    of_noise = run(runner.folder / manifest.trunk, {PIXELS: noise.numpy()})[LOGITS]
    logits = np.concatenate([runner.outputs[LOGITS][:MIN_IMAGES], of_noise])
    if expected.shape[1] == 1 and "ArgMax" not in head.removed:
        logits = logits[:, 1:]
    return Check("own output", output_error(head.removed, logits, expected), LIMIT, ", ".join(head.removed))


class TorchRuns:
    """The outputs and gradients of a torch network on a runner's images, and how far rounding moves them.

    Results are arrays by the name of the output, or by the name of the check of the gradients.
    """

    def __init__(self, module: Trunk, runner: BundleRunner) -> None:
        """Run the network in float64, or in float32 where it has operations for float32 alone."""
        self._module, self._runner = module, runner
        self._measured: list[Mapping[str, list[float]]] = []
        for name in set(module.layers) - {IMAGE}:
            module.network.get_submodule(name).register_forward_hook(_round_to_float32)
        try:
            self.exact = _run(module.double(), runner)
        except Exception:  # the network's own code may raise errors of every type, and raises them again in float32
            self.exact = _run(module.float(), runner)

    def judge(self, check: Check, output: str) -> Check:
        """The check of an output; where it failed, with a limit that rounding in torch justifies."""
        for rounding in self._roundings():
            if check.passed:
                break
            check = allow_rounding(check, rounding[output], ROUNDING_NOTE)
        return check

    def judge_gradients(self, check: Check) -> Check:
        """The check of gradients; where it failed, with a limit that rounding in torch justifies."""
        for rounding in self._roundings():
            if check.passed:
                break
            check = allow_jumps(check, rounding[check.name], rounding[LOGITS], ROUNDING_NOTE)
        return check

    def _roundings(self) -> Iterator[Mapping[str, list[float]]]:
        """By result and image, torch's error in float32: as the image is, and after it moved by a millionth."""
        for moves in (0, 1):
            if len(self._measured) == moves:
                module = self._module.float()
                module.mean += moves * MILLIONTH * module.std
                found = _run(module, self._runner)
                self._measured.append({name: differences(found[name], y) for name, y in self.exact.items()})
            yield self._measured[moves]


def _round_to_float32(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    """The output of a tapped layer as a tail gets it, so that both compute from the same numbers."""
    return output + (output.float() - output).detach() if isinstance(output, Tensor) else output


def _affordable_images(module: Trunk, pixels: Array) -> int:
    """How many of the images the network is run on: float64 and gradients take ten times as long as one pass."""
    # The counter asks for the gradients of inputs that require them, such as class tokens.
    module.requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.from_numpy(pixels[:1]))
    return max(MIN_IMAGES, min(len(pixels), int(FLOPS // (counter.get_total_flops() or 1))))


def _tail_gradients(
    runner: BundleRunner, layer: Layer, outputs: dict[str, Array], tail: dict[str, Array]
) -> dict[str, Array]:
    """The gradients of a tail by the name of their check; those of the layers' means too, if the tail has seeds."""
    gradients = {layer.name: tail[GRADIENTS]}
    if layer.tail and layer.tail.seeds:
        means = runner.run_tail(layer, outputs, 0 * runner.seed, layer_means=True)
        gradients[LAYER_MEANS] = means[GRADIENTS]
    return gradients


def _run(module: Trunk, runner: BundleRunner) -> dict[str, Array]:
    """The outputs of torch by name, and its gradients by the name of their check.

    The network runs on two or three images at a time, because gradients need all its activations.
    """
    chunks = np.array_split(np.arange(len(runner.pixels)), max(1, len(runner.pixels) // 2))
    results = [_run_chunk(module, runner, chunk) for chunk in chunks]
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}


def _run_chunk(module: Trunk, runner: BundleRunner, chunk: Array) -> dict[str, Array]:
    logits, *taps = module(torch.from_numpy(runner.pixels[chunk]))
    activations = dict(zip(module.layers, taps, strict=True))
    seed = torch.from_numpy(runner.seed[chunk]).to(logits.dtype)
    gradients = _gradients((logits * seed).sum(), activations)
    results = {LOGITS: logits, **activations} | {f"{name} gradients": g for name, g in gradients.items()}
    for layer in runner.layers_with_tails:
        if layer.tail and layer.tail.seeds:
            taps = [activations[name] for name in layer.tail.seeds]
            means = [(tap * torch.from_numpy(mean_weights(tap.shape)).to(tap.dtype)).sum() for tap in taps]
            (g_means,) = torch.autograd.grad(torch.stack(means).sum(), activations[layer.name])
            results[f"{LAYER_MEANS} gradients"] = g_means
    return {name: _to_array(tensor) for name, tensor in results.items()}


def _gradients(y: Tensor, activations: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of y at every layer; raises `BundleError` where torch has none."""
    known = [name for name, A in activations.items() if A.requires_grad and y.requires_grad]
    tensors = [activations[name] for name in known]
    found = torch.autograd.grad(y, tensors, retain_graph=True, allow_unused=True) if known else ()
    gradients = {name: g for name, g in zip(known, found, strict=True) if g is not None}
    if missing := [name for name in activations if name not in gradients]:
        raise BundleError(
            f"torch has no gradients at the layer {missing[-1]!r}: let the network neither detach its maps nor run "
            "under no_grad, and let it use every result of a module that it calls twice"
        )
    return gradients


def _to_array(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().numpy())
