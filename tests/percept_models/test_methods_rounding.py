"""Where rounding shows in a comparison with pytorch-grad-cam: in batches of different sizes, and at the kink of a ReLU.

Each test constructs the rounding that it needs, so that it proves the same on every CPU.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from percept.explain.methods.protocol import PassResult, TailRequest
from percept.runtime.session import Session
from percept_models.graph.reader import Array
from percept_models.sources.trunk import PIXELS, trace
from percept_models.verify.checks import GRADIENT_LIMIT
from tests.percept_models.grad_cam_reference import MAP_LIMIT
from tests.percept_models.method_comparison import (
    EDGE_CASES,
    NETWORKS,
    MethodComparison,
    map_difference,
)
from tests.percept_models.networks import NetworkCase

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.mark.parametrize("case", ["squeezenet", pytest.param("batched", marks=pytest.mark.prove)])
def test_reference_ablationcam_compares_y_across_batch_sizes(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It computes y in a batch of one, and y without a channel in batches of 32: kernels may round these differently.

    Here the outputs of all batches of several are scaled, as if such a kernel had computed them. The reference's map
    changes, unless it ablates one channel at a time. Percept's changes little, because y is in the batch of the first
    channels; only the last channel may be in a batch of one.
    """
    comparison = MethodComparison((NETWORKS | EDGE_CASES)[case])
    layer = comparison.case.layers[0]
    ours = comparison.final_map(comparison.raw("ablationcam", layer))
    with scaled_batches(comparison, 1.0001, monkeypatch):
        scaled = comparison.final_map(comparison.raw("ablationcam", layer))
        batched = comparison.reference_map("ablationcam", layer)
        one_by_one = comparison.reference_map("ablationcam", layer, batch_size=1)
    assert map_difference(ours, one_by_one) < MAP_LIMIT
    assert map_difference(ours, batched) > 10 * MAP_LIMIT
    assert map_difference(ours, scaled) < map_difference(ours, batched) / 10


@contextmanager
def scaled_batches(comparison: MethodComparison, factor: float, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scale the outputs of the torch network and the y of the tails where a batch has more than one element."""
    run_tail = comparison._run_tail

    def scale_outputs(_module: nn.Module, _inputs: object, outputs: torch.Tensor) -> torch.Tensor:
        return outputs * factor if len(outputs) > 1 else outputs

    def scale_y(layer: str, seed: Array, request: TailRequest) -> PassResult:
        result = run_tail(layer, seed, request)
        return PassResult(result.y * factor, result.g) if len(request.activations) > 1 else result

    hook = comparison.network.register_forward_hook(scale_outputs)
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "_run_tail", scale_y)
        yield
    hook.remove()


def test_difference_vanishes_with_relus_switched_alike() -> None:
    """The input of a ReLU may be 0 up to rounding, on different sides here and there: then the gradients jump.

    Two inputs are moved to where 0 is between torch's and ONNX Runtime's rounding. With torch's ReLUs switched as ONNX
    Runtime has switched its own, both agree.
    """
    before = MethodComparison(shifted_squeezenet(np.zeros((1, 1, 1), np.float32)))
    shift = shift_between_roundings(before, count=2)
    comparison = MethodComparison(shifted_squeezenet(shift))
    comparison.select_image(before.image)
    layer = comparison.case.layers[0]
    relus = [name for name, module in comparison.network.named_modules() if isinstance(module, nn.ReLU)]
    trunk = Session(trace(comparison.network, comparison.preprocessing, relus).SerializeToString())

    def error() -> float:
        found = comparison.final_map(comparison.raw("hirescam", layer))
        return map_difference(found, comparison.reference_map("hirescam", layer))

    error_before = error()
    with switched_relus(comparison.network, trunk.run({PIXELS: comparison.pixels[None]}, relus)) as switched:
        gradient_error, map_error = comparison.gradient_error(layer), error()
    assert gradient_error < GRADIENT_LIMIT
    assert map_error < MAP_LIMIT
    if not shift.any():  # on this machine both round alike everywhere
        assert error_before < MAP_LIMIT
        return
    assert error_before > MAP_LIMIT
    assert 0 < len(torch.cat(switched)) < 10
    assert torch.cat(switched).max() < 1e-5


class Shift(nn.Module):
    """Subtract a constant [C,h,w]."""

    def __init__(self, shift: Array) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.from_numpy(shift))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        return x - self.shift


def shifted_squeezenet(shift: Array) -> NetworkCase:
    """SqueezeNet with a constant subtracted from the inputs of a late ReLU, after which nothing is max-pooled."""

    def make() -> nn.Module:
        network = NETWORKS["squeezenet"].make()
        squeeze = network.get_submodule("features.10.squeeze")
        network.set_submodule("features.10.squeeze", nn.Sequential(squeeze, Shift(shift)))
        return network

    return NETWORKS["squeezenet"]._replace(make=make)


def shift_between_roundings(comparison: MethodComparison, count: int) -> Array:
    """The shift that moves the inputs of `count` ReLUs, those of the largest gradients, to 0 in one of both roundings.

    The lesser of torch's and ONNX Runtime's numbers becomes 0, the greater stays positive, but less than 5e-6. All of
    the shift is 0 where both round alike.
    """
    source, relu = "features.10.squeeze.0", "features.10.squeeze_activation"
    trunk = Session(trace(comparison.network, comparison.preprocessing, [source]).SerializeToString())
    ours = trunk.run({PIXELS: comparison.pixels[None]}, [source])[source][0]
    theirs = comparison.reference_gradients(source).activations
    rounding = np.abs(ours - theirs)
    effect = np.abs(comparison.reference_gradients(relu).gradients) * ((rounding > 0) & (rounding < 5e-6))
    chosen = (effect >= np.sort(effect, axis=None)[-count]) & (effect > 0)
    return np.where(chosen, np.minimum(ours, theirs), np.float32(0))


@contextmanager
def switched_relus(network: nn.Module, outputs: Mapping[str, Array]) -> Iterator[list[torch.Tensor]]:
    """Let each ReLU pass what is positive in `outputs`; collects the magnitudes of the inputs that it treats anew."""
    switched: list[torch.Tensor] = []

    def switch(on: torch.Tensor) -> Callable[..., torch.Tensor]:
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor], _output: torch.Tensor) -> torch.Tensor:
            switched.append(inputs[0].detach()[(inputs[0] > 0) != on].abs())
            return inputs[0] * on

        return hook

    hooks = [
        network.get_submodule(name).register_forward_hook(switch(torch.from_numpy(y > 0)))
        for name, y in outputs.items()
    ]
    yield switched
    for hook in hooks:
        hook.remove()
