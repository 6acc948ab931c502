"""A bundle on CUDA against the same bundle on the CPU."""

from collections.abc import Iterator
from dataclasses import replace

from percept_models.autodiff.tail import GRADIENTS, LOGITS
from percept_models.verify.checks import Check, check_gradients, difference
from percept_models.verify.runner import BundleRunner

LIMIT = 1e-3  # CUDA's kernels sum in another order
GRADIENT_LIMIT = 1e-2  # rounding switches other cells of a ReLU


def check_cuda(runner: BundleRunner) -> Iterator[Check]:
    """Compare the logits, the layers and the gradients of every tail on CUDA with those on the CPU."""
    tolerance = runner.manifest.golden.tolerance
    limit = max(LIMIT, tolerance)
    gradient_limit = max(GRADIENT_LIMIT, tolerance if runner.manifest.tf32 else 0)
    found = runner.run_trunk("cuda")
    for name in (LOGITS, *(layer.name for layer in runner.manifest.layers)):
        yield Check(f"{name} on CUDA", difference(found[name], runner.outputs[name]), limit)
    for layer in runner.layers_with_tails:
        on_cpu = runner.run_tail(layer, runner.outputs, runner.seed)[GRADIENTS]
        on_cuda = runner.run_tail(layer, runner.outputs, runner.seed, "cuda")[GRADIENTS]
        check = check_gradients(layer.name, on_cuda, on_cpu, gradient_limit)
        yield replace(check, name=f"{layer.name} gradients on CUDA")
