"""Whether a torch network is fit for inference: an image gives the same outputs in every run and in every batch.

In come a network and its preprocessing; a network that draws random numbers, or mixes the images of a batch, is refused
with the name of the module that does it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from percept.bundle.preprocessing import Preprocessing
from percept.errors import BundleError
from percept_models.sources.trunk import Trunk, example_pixels

TOLERANCE = 1e-4  # relative to the greatest magnitude of an output; in float32 a network may amplify rounding beyond it
# Within which rounding alone may change the output of a module.
TOLERANCE_FLOAT64, TOLERANCE_FLOAT32 = 1e-6, 1e-2
RANDOM = "gives another result in every run"
MIXING = "mixes the images of a batch, so that an image gets another result beside other images"
REMEDIES = {  # where the module is in evaluation mode
    RANDOM: "call dropout with training=self.training, and draw no random numbers",
    MIXING: "normalize with running statistics (batch_norm with training=self.training), or each image by itself",
}


def check_inference(network: nn.Module, preprocessing: Preprocessing) -> None:
    """Raise `BundleError` where the outputs for an image change from run to run, or with the rest of its batch."""
    _reject_batch_statistics(network)
    trunk = Trunk(network.cpu(), preprocessing, ())
    pixels = example_pixels(preprocessing)
    with torch.no_grad():
        images = trunk.normalized(pixels)
        alone, batch = (_rows(trunk.network(x), len(x)) for x in (images[:1], images))
        if _difference(alone, batch) > TOLERANCE:
            _reject_culprit(trunk, pixels)


def _reject_batch_statistics(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise BundleError(
                f"the module {name!r} ({type(module).__name__}) has no running statistics and {MIXING}: make it with "
                "track_running_stats=True and train it so, or use InstanceNorm2d"
            )


def _reject_culprit(trunk: Trunk, pixels: Tensor) -> None:
    """Raise `BundleError` with the first module whose output changes although its inputs do not."""
    for alone, again, beside in zip(*_run_thrice(trunk, pixels), strict=False):
        for fault, other in ((RANDOM, again), (MIXING, beside)):
            if alone.differs(other):
                remedy = "remove the call of train() from the forward" if alone.training else REMEDIES[fault]
                mode = " is in training mode in spite of eval() and" if alone.training else ""
                raise BundleError(f"{alone.module}{mode} {fault}: {remedy}")


@dataclass(frozen=True)
class _Call:
    """The call of a module: its description, whether it is in training mode, and rows of its inputs and output."""

    module: str
    training: bool
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]

    def differs(self, other: "_Call") -> bool:
        """Whether the outputs differ by more than rounding, and the inputs do not."""
        exact = all(tensor.dtype == torch.float64 for tensor in self.outputs)
        tolerance = TOLERANCE_FLOAT64 if exact else TOLERANCE_FLOAT32
        same_inputs = _difference(self.inputs, other.inputs) <= tolerance
        return same_inputs and _difference(self.outputs, other.outputs) > tolerance


def _run_thrice(trunk: Trunk, pixels: Tensor) -> list[list[_Call]]:
    """The calls for the first image, for the same again, and for both images: in float64 where the network allows."""
    try:
        return _record_runs(trunk.double(), pixels)
    except Exception:  # the network's own code may raise errors of every type
        return _record_runs(trunk.float(), pixels)


def _record_runs(trunk: Trunk, pixels: Tensor) -> list[list[_Call]]:
    images = trunk.normalized(pixels)
    return [_record_calls(trunk.network.eval(), x) for x in (images[:1], images[:1], images)]


def _record_calls(network: nn.Module, images: Tensor) -> list[_Call]:
    """The calls of all modules, inner ones first."""
    calls: list[_Call] = []
    names = {module: name for name, module in network.named_modules()}

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        name = f"the module {names[module]!r} ({type(module).__name__})" if names[module] else "the network's forward"
        rows = [[tensor.clone() for tensor in _rows(value, len(images))] for value in (inputs, output)]
        calls.append(_Call(name, module.training, *rows))

    hooks = [module.register_forward_hook(record) for module in names]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _rows(output: Any, n: int) -> list[Tensor]:
    """The rows of the first image in all floating-point tensors of an output that have one for each of n images."""
    tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point() and t.dim()]
    return [tensor[:1] for tensor in tensors if len(tensor) == n]


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The greatest difference between tensors, relative to the greatest magnitude; those that are not finite agree."""
    errors = [0.0]
    for a, b in zip(found, expected, strict=False):
        if a.shape == b.shape and bool(a.isfinite().all() and b.isfinite().all()):
            errors.append(float((a - b).abs().max()) / (float(b.abs().max()) or 1.0))
    return max(errors)
