"""`cifar10`: a residual classifier of 32x32 images, ten classes, global average pooling and one linear head.

The augmentation goes beyond the usual shift and flip (zoom, aspect ratio, light, erasing), because the bundle is
used on real photos squeezed to 32x32, whose objects are smaller, wider or darker than those of the data set.
"""

import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from models.recipes.blocks import ConvNorm, Residual
from models.recipes.training import Batch, Predict, device, fit, normalise, placed, seed_everything

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
SEED, EPOCHS, BATCH, WIDTH = 10, 26, 256, 56


class Network(nn.Module):
    """Three stages at strides 1, 2 and 4; 2.3 million parameters."""

    def __init__(self, width: int = WIDTH, classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvNorm(3, width), nn.ReLU())
        self.stage1 = nn.Sequential(ConvNorm(width, 2 * width, stride=2), nn.ReLU(), Residual(2 * width, 2 * width))
        self.stage2 = nn.Sequential(
            ConvNorm(2 * width, 4 * width, stride=2),
            nn.ReLU(),
            Residual(4 * width, 4 * width),
            Residual(4 * width, 4 * width),
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised [N,3,32,32] → logits [N,10]."""
        y: Tensor = self.head(self.stage2(self.stage1(self.stem(x))).mean((2, 3)))
        return y


def load(file: Path) -> tuple[Tensor, Tensor]:
    """Decode a split: pixels uint8 [n,3,32,32] and labels int64 [n]."""
    data = np.load(file)
    ends = data["offset"]
    raw = data["jpeg"].tobytes()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(raw[a:b])).convert("RGB")) for a, b in pairwise(ends)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(data["label"]).long()


def augment(pixels: Tensor) -> Tensor:
    """Flip, shift, zoom, aspect ratio, light and erasing, different for every image of the batch."""
    n, place = len(pixels), pixels.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(n, device=place).uniform_(low, high)

    zoom, aspect = uniform(-0.25, 0.25).exp(), uniform(-0.12, 0.12).exp()
    flip = uniform(-1, 1).sign()
    zero = torch.zeros(n, device=place)
    rows = (
        torch.stack([zoom * aspect * flip, zero, uniform(-0.25, 0.25)], 1),
        torch.stack([zero, zoom / aspect, uniform(-0.25, 0.25)], 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    x = F.grid_sample(pixels.float(), grid, padding_mode="reflection", align_corners=False)
    x = normalise(x, MEAN, STD) * uniform(0.75, 1.25).view(n, 1, 1, 1) + uniform(-0.25, 0.25).view(n, 1, 1, 1)
    line = torch.arange(32, device=place)

    def inside(start: Tensor, length: Tensor) -> Tensor:
        return (line >= start[:, None]) & (line < (start + length)[:, None])

    high = inside(uniform(-4, 30), uniform(4, 13))
    wide = inside(uniform(-4, 30), uniform(4, 13))
    erased = high[:, None, :, None] & wide[:, None, None, :] & (uniform(0, 1) < 0.6).view(n, 1, 1, 1)
    return x.masked_fill(erased, 0.0)


def epochs(pixels: Tensor, labels: Tensor, count: int) -> Iterator[Iterator[Batch]]:
    """`count` passes over the split in random order, in augmented batches; the last incomplete one is dropped."""
    for _ in range(count):
        order = torch.randperm(len(pixels), device=pixels.device)[: len(pixels) // BATCH * BATCH]
        yield (
            (augment(pixels[rows]).contiguous(memory_format=torch.channels_last), labels[rows])
            for rows in torch.split(order, BATCH)
        )


@torch.inference_mode()
def accuracy(predict: Predict, pixels: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy, 0..1."""
    hits: int = sum(
        int((predict(x).argmax(1) == y).sum())
        for x, y in zip(torch.split(pixels, 500), torch.split(labels, 500), strict=True)
    )
    return hits / len(labels)


def measure(predict: Predict, data: Path) -> dict[str, float]:
    """The figures of the manifest, on `data`/test.npz."""
    return {"top1": accuracy(predict, *load(data / "test.npz"))}


def train(data: Path, count: int = EPOCHS) -> nn.Module:
    """Train on `data`/train.npz for `count` epochs; the test split is only reported, never chosen by."""
    seed_everything(SEED)
    where = device()
    pixels, labels = (t.to(where) for t in load(data / "train.npz"))
    test = [t.to(where) for t in load(data / "test.npz")]
    network = placed(Network(), where)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.4, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = OneCycleLR(optimizer, max_lr=0.4, total_steps=count * (len(pixels) // BATCH), pct_start=0.2)

    def report(epoch: int, loss: float, average: nn.Module) -> None:
        if epoch % 3 == 1 or epoch == count - 1:
            top1 = accuracy(lambda x: average(normalise(x, MEAN, STD)), *test)
            print(f"  test top-1 {top1:.4f}", flush=True)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=0.1)

    return fit(network, optimizer, schedule, epochs(pixels, labels, count), loss, 0.998, report)
