"""The training loop of the recipes: one-cycle learning rates, bf16 autocast, averaged weights.

A recipe hands in augmented batches and a loss; the loop knows neither images nor labels.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Batch = tuple[Tensor, Tensor]
Predict = Callable[[Tensor], Tensor]  # pixels uint8 [n,3,H,W] → logits


def seed_everything(seed: int) -> None:
    """Seed every random generator that a recipe uses."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def select_device() -> torch.device:
    """The device to train on: CUDA where it works."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def normalize(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """[n,3,H,W] uint8 or float 0..255 → zero mean and unit variance; mean and std are in units of 0..1."""
    m, s = (torch.tensor(v, device=pixels.device).view(1, 3, 1, 1) for v in (mean, std))
    return (pixels.float() / 255 - m) / s


def to_device(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, its weights in the memory layout that convolutions are fastest with."""
    moved: nn.Module = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def shuffled_epochs(
    inputs: Tensor, targets: Tensor, count: int, batch: int, augment: Callable[[Tensor, Tensor], Batch]
) -> Iterator[Iterator[Batch]]:
    """`count` passes over a split in random order, in augmented batches; the last incomplete batch is dropped."""
    for _ in range(count):
        order = torch.randperm(len(inputs), device=inputs.device)[: len(inputs) // batch * batch]
        batches = (augment(inputs[rows], targets[rows]) for rows in torch.split(order, batch))
        yield ((x.contiguous(memory_format=torch.channels_last), y) for x, y in batches)


def fit(
    network: nn.Module,
    optimizer: Optimizer,
    schedule: OneCycleLR,
    epochs: Iterable[Iterable[Batch]],
    loss: Callable[[Tensor, Tensor], Tensor],
    decay: float,
    after_epoch: Callable[[int, nn.Module], None],
) -> nn.Module:
    """Train `network` and return the exponential moving average of its weights, in `eval` mode.

    `epochs` yields an iterable of (inputs, targets) for each epoch; `loss` takes float32 outputs and targets; `decay`
    is that of the average; `after_epoch` gets the epoch's number and the averaged network.
    """
    averaging = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=averaging, use_buffers=True)
    average.eval()
    device = next(network.parameters()).device
    for epoch, batches in enumerate(epochs):
        network.train()
        total, start = 0.0, time.monotonic()
        for step, (inputs, targets) in enumerate(batches, 1):
            with torch.autocast(device.type, torch.bfloat16):
                outputs = network(inputs)
            value = loss(outputs.float(), targets)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            average.update_parameters(network)
            total += value.item()
            print(f"\repoch {epoch + 1} step {step} loss {total / step:.4f}", end="", flush=True)
        print(f" in {time.monotonic() - start:.0f} s", flush=True)
        after_epoch(epoch, average.module)
    return average.module
