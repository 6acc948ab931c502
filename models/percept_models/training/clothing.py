"""`clothing`: a feature pyramid network (Lin et al. 2017, arXiv:1612.03144) that segments clothes in street photos.

A residual encoder of four stages at strides 4 to 32, a pyramid of 64 channels, one prediction at stride 4.
The segmentation branch sums the pyramid's levels, each brought to stride 4 (Kirillov et al. 2019, arXiv:1901.02446).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from percept_models.training.blocks import ConvNorm, Residual
from percept_models.training.loop import Batch, Predict, device, fit, normalise, placed, seed_everything

CLASSES = ("background", "hair", "skin", "upper", "dress", "lower", "footwear", "bag")
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
HEIGHT, WIDTH, IGNORE = 384, 256, 255
WEIGHTS = (0.5, 1.3, 1.0, 1.0, 1.6, 1.2, 1.3, 1.6)
SEED, EPOCHS, BATCH = 15, 100, 16


class Network(nn.Module):
    """3.1 million parameters; logits at a quarter of the input's size."""

    def __init__(self, width: int = 32, pyramid: int = 64, classes: int = len(CLASSES)) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.stem = nn.Sequential(ConvNorm(3, width, stride=2), nn.ReLU(), ConvNorm(width, width, stride=2), nn.ReLU())
        self.stage1 = nn.Sequential(Residual(widths[0], widths[0]), Residual(widths[0], widths[0]))
        self.stage2 = nn.Sequential(Residual(widths[0], widths[1], stride=2), Residual(widths[1], widths[1]))
        self.stage3 = nn.Sequential(Residual(widths[1], widths[2], stride=2), Residual(widths[2], widths[2]))
        self.stage4 = nn.Sequential(Residual(widths[2], widths[3], stride=2), Residual(widths[3], widths[3]))
        self.lateral1, self.lateral2, self.lateral3, self.lateral4 = (nn.Conv2d(w, pyramid, 1) for w in widths)
        self.smooth1, self.smooth2, self.smooth3, self.smooth4 = (
            nn.Sequential(ConvNorm(pyramid, pyramid), nn.ReLU()) for _ in widths
        )
        self.merge = nn.Sequential(ConvNorm(pyramid, pyramid), nn.ReLU())
        self.head = nn.Conv2d(pyramid, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised [N,3,H,W], H and W multiples of 32 → logits [N,8,H/4,W/4]."""
        c1 = self.stage1(self.stem(x))
        c2 = self.stage2(c1)
        c3 = self.stage3(c2)
        c4 = self.stage4(c3)
        p4 = self.lateral4(c4)
        p3 = self.lateral3(c3) + double(p4)
        p2 = self.lateral2(c2) + double(p3)
        p1 = self.lateral1(c1) + double(p2)
        merged = double(self.smooth4(p4)) + self.smooth3(p3)
        merged = double(merged) + self.smooth2(p2)
        merged = double(merged) + self.smooth1(p1)
        y: Tensor = self.head(self.merge(merged))
        return y


def double(x: Tensor) -> Tensor:
    """Bilinear upsampling by two."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def load(data: Path, split: str) -> tuple[Tensor, Tensor]:
    """Photos uint8 [n,3,384,256] and masks uint8 [n,384,256], squeezed to one size."""
    size = (WIDTH, HEIGHT)
    names = (data / f"{split}.txt").read_text().split()
    photos = [
        Image.open(data / "images" / f"{n}.jpg").convert("RGB").resize(size, Image.Resampling.BILINEAR) for n in names
    ]
    masks = [Image.open(data / "masks" / f"{n}.png").resize(size, Image.Resampling.NEAREST) for n in names]
    pixels = torch.from_numpy(np.stack([np.asarray(p) for p in photos])).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.from_numpy(np.stack([np.asarray(m) for m in masks]))


def augment(pixels: Tensor, masks: Tensor) -> Batch:
    """Random crop of half to full size, flip, small rotation, brightness, contrast and colour."""
    n, place = len(pixels), pixels.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(n, *shape, device=place).uniform_(low, high)

    scale = torch.exp(uniform(-0.65, 0.15))
    aspect = torch.exp(uniform(-0.12, 0.12))
    angle, flip = uniform(-0.12, 0.12), uniform(-1, 1).sign()
    reach = (1.1 - scale).clamp(min=0.08)
    ratio = HEIGHT / WIDTH
    rows = (
        torch.stack([flip * scale * aspect * angle.cos(), -ratio * scale * angle.sin(), uniform(-1, 1) * reach], 1),
        torch.stack([flip * scale / ratio * angle.sin(), scale / aspect * angle.cos(), uniform(-1, 1) * reach], 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    x = F.grid_sample(pixels.float(), grid, padding_mode="reflection", align_corners=False)
    shifted = (masks[:, None].float() + 1) % 256
    y = F.grid_sample(shifted, grid, mode="nearest", align_corners=False)[:, 0].long()
    x = x * uniform(0.7, 1.3, 1, 1, 1) * uniform(0.9, 1.1, 3, 1, 1)
    middle = x.mean((1, 2, 3), keepdim=True)
    x = (x - middle) * uniform(0.7, 1.3, 1, 1, 1) + middle
    return normalise(x.clamp(0, 255), MEAN, STD), (y + 255) % 256


def epochs(pixels: Tensor, masks: Tensor, count: int) -> Iterator[Iterator[Batch]]:
    """`count` passes over the split in random order, in augmented batches; the last incomplete one is dropped."""
    for _ in range(count):
        order = torch.randperm(len(pixels), device=pixels.device)[: len(pixels) // BATCH * BATCH]
        batches = (augment(pixels[rows], masks[rows]) for rows in torch.split(order, BATCH))
        yield ((x.contiguous(memory_format=torch.channels_last), y) for x, y in batches)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Weighted cross-entropy plus half the soft Dice loss (Milletari et al. 2016, arXiv:1606.04797).

    The outputs [N,8,H/4,W/4] are compared at half of the mask's size: finer costs time and gains nothing.
    """
    outputs = double(outputs)
    targets = targets[:, 1::2, 1::2]
    weights = torch.tensor(WEIGHTS, device=outputs.device)
    cross = F.cross_entropy(outputs, targets, weights, ignore_index=IGNORE, label_smoothing=0.03)
    seen = targets != IGNORE
    truth = F.one_hot(targets.masked_fill(~seen, 0), len(CLASSES)).permute(0, 3, 1, 2) * seen[:, None]
    guess = outputs.softmax(1) * seen[:, None]
    both, either = (guess * truth).sum((0, 2, 3)), (guess + truth).sum((0, 2, 3))
    dice = 1 - (2 * both + 1) / (either + 1)
    return cross + 0.5 * dice.mean()


@torch.inference_mode()
def intersection_over_union(predict: Predict, pixels: Tensor, masks: Tensor) -> tuple[float, float]:
    """Mean IoU over the classes, and IoU of foreground against background, both over all pixels of the split."""
    k = len(CLASSES)
    table = torch.zeros(k, k, dtype=torch.long, device=pixels.device)
    for x, y in zip(torch.split(pixels, 10), torch.split(masks, 10), strict=True):
        guess = F.interpolate(predict(x), size=y.shape[1:], mode="bilinear").argmax(1)
        seen = y != IGNORE
        table += torch.bincount(y[seen].long() * k + guess[seen], minlength=k * k).view(k, k)
    hit = table.diagonal()
    each = hit / (table.sum(0) + table.sum(1) - hit)
    front = table[1:, 1:].sum()
    return float(each.mean()), float(front / (table.sum() - table[0, 0]))


def measure(predict: Predict, data: Path) -> dict[str, float]:
    """The figures of the manifest, on the split `test`."""
    mean, front = intersection_over_union(predict, *load(data, "test"))
    return {"mean_iou": mean, "foreground_iou": front}


def train(data: Path, count: int | None = None) -> nn.Module:
    """Train on the `train` split for `count` epochs; the test split is only reported, never chosen by."""
    count = count or EPOCHS
    seed_everything(SEED)
    where = device()
    pixels, masks = (t.to(where) for t in load(data, "train"))
    test = [t.to(where) for t in load(data, "test")]
    network = placed(Network(), where)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = OneCycleLR(optimizer, max_lr=2e-3, total_steps=count * (len(pixels) // BATCH), pct_start=0.15)

    def report(epoch: int, loss: float, average: nn.Module) -> None:
        if epoch % 10 == 4 or epoch == count - 1:
            mean, front = intersection_over_union(lambda x: average(normalise(x, MEAN, STD)), *test)
            print(f"  test mean IoU {mean:.4f}, foreground IoU {front:.4f}", flush=True)

    return fit(network, optimizer, schedule, epochs(pixels, masks, count), loss, 0.998, report)
