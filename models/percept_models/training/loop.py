"""The training loop of the recipes: one cycle of learning rates, bf16 autocast, averaged weights.

It knows neither images nor labels: a recipe hands it batches that are ready and a loss.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Batch = tuple[Tensor, Tensor]
Predict = Callable[[Tensor], Tensor]  # pixels uint8 [n,3,H,W] → logits


def seed_everything(seed: int) -> None:
    """Fix every source of chance that a recipe uses."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def device() -> torch.device:
    """The device to train on: CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """[n,3,H,W] uint8 or float 0..255 → zero mean and unit variance; mean and std in units of 0..1."""
    m, s = (torch.tensor(v, device=pixels.device).view(1, 3, 1, 1) for v in (mean, std))
    return (pixels.float() / 255 - m) / s


def placed(network: nn.Module, where: torch.device) -> nn.Module:
    """The network on a device, its weights in the layout that convolutions are fastest with."""
    moved: nn.Module = network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def fit(
    network: nn.Module,
    optimizer: Optimizer,
    schedule: OneCycleLR,
    epochs: Iterable[Iterable[Batch]],
    loss: Callable[[Tensor, Tensor], Tensor],
    decay: float,
    report: Callable[[int, float, nn.Module], None],
) -> nn.Module:
    """Train `network` and return the exponential moving average of its weights, in `eval` mode.

    `epochs` yields one iterable of (inputs, targets) per epoch; `loss` takes float32 outputs and targets;
    `report` is called after each epoch with its number, its mean loss and the averaged network.
    """
    averaging = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=averaging, use_buffers=True)
    average.eval()
    place = next(network.parameters()).device
    for epoch, batches in enumerate(epochs):
        network.train()
        total, steps, began = 0.0, 0, time.monotonic()
        for inputs, targets in batches:
            with torch.autocast(place.type, torch.bfloat16):
                outputs = network(inputs)
            value = loss(outputs.float(), targets)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            average.update_parameters(network)
            total, steps = total + value.item(), steps + 1
            print(f"\repoch {epoch + 1} step {steps} loss {total / steps:.4f}", end="", flush=True)
        print(f" in {time.monotonic() - began:.0f} s", flush=True)
        report(epoch, total / steps, average.module)
    return average.module
