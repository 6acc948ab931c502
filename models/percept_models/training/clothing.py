"""`clothing`: a feature pyramid network (Lin et al. 2017, arXiv:1612.03144) that segments clothes in street photos.

A residual encoder of four stages at strides 4 to 32, a pyramid of 64 channels, one prediction at stride 4. The
segmentation branch sums the pyramid's levels, each upsampled to stride 4 (Kirillov et al. 2019, arXiv:1901.02446).
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from percept.bundle.manifest import IMAGE
from percept.bundle.preprocessing import Preprocessing
from percept_models.export.bundle_writer import BundleDescription
from percept_models.sources.preprocessing import unit_normalization
from percept_models.training.blocks import ConvNorm, Residual
from percept_models.training.loop import (
    Batch,
    Predict,
    fit,
    normalize,
    seed_everything,
    select_device,
    shuffled_epochs,
    to_device,
)
from percept_models.training.recipe import Recipe, recipe_provenance

CLASSES = ("background", "hair", "skin", "upper", "dress", "lower", "footwear", "bag")
PALETTE = (
    (0, 0, 0),
    (240, 228, 66),
    (255, 170, 120),
    (40, 120, 240),
    (210, 70, 200),
    (0, 170, 100),
    (230, 50, 40),
    (90, 220, 250),
)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
HEIGHT, WIDTH, IGNORE = 384, 256, 255
CLASS_WEIGHTS = (0.5, 1.3, 1.0, 1.0, 1.6, 1.2, 1.3, 1.6)  # of the cross-entropy
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
        """Normalized [N,3,H,W], H and W multiples of 32 → logits [N,8,H/4,W/4]."""
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
    names = (data / f"{split}.txt").read_text().split()
    photos = [_read(data / "images" / f"{name}.jpg", Image.Resampling.BILINEAR, "RGB") for name in names]
    masks = [_read(data / "masks" / f"{name}.png", Image.Resampling.NEAREST) for name in names]
    pixels = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.from_numpy(np.stack(masks))


def _read(file: Path, resampling: Image.Resampling, mode: str | None = None) -> np.ndarray:
    image = Image.open(file)
    return np.asarray((image.convert(mode) if mode else image).resize((WIDTH, HEIGHT), resampling))


def augment(pixels: Tensor, masks: Tensor) -> Batch:
    """Crop half to the full size, flip, rotate, and change brightness, contrast and colour, then normalize."""
    n, device = len(pixels), pixels.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(n, *shape, device=device).uniform_(low, high)

    scale = torch.exp(uniform(-0.65, 0.15))
    aspect = torch.exp(uniform(-0.12, 0.12))
    angle, flip = uniform(-0.12, 0.12), uniform(-1, 1).sign()
    shift = (1.1 - scale).clamp(min=0.08)
    ratio = HEIGHT / WIDTH
    rows = (
        torch.stack([flip * scale * aspect * angle.cos(), -ratio * scale * angle.sin(), uniform(-1, 1) * shift], 1),
        torch.stack([flip * scale / ratio * angle.sin(), scale / aspect * angle.cos(), uniform(-1, 1) * shift], 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    x = F.grid_sample(pixels.float(), grid, padding_mode="reflection", align_corners=False)
    shifted = (masks[:, None].float() + 1) % 256  # IGNORE becomes 0, with which grid_sample pads
    y = F.grid_sample(shifted, grid, mode="nearest", align_corners=False)[:, 0].long()
    x = x * uniform(0.7, 1.3, 1, 1, 1) * uniform(0.9, 1.1, 3, 1, 1)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * uniform(0.7, 1.3, 1, 1, 1) + mean
    return normalize(x.clamp(0, 255), MEAN, STD), (y + 255) % 256


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Weighted cross-entropy plus half the soft Dice loss (Milletari et al. 2016, arXiv:1606.04797).

    The outputs [N,8,H/4,W/4] are compared at half the mask's size: full size costs time and gains nothing.
    """
    outputs = double(outputs)
    targets = targets[:, 1::2, 1::2]
    weights = torch.tensor(CLASS_WEIGHTS, device=outputs.device)
    cross_entropy = F.cross_entropy(outputs, targets, weights, ignore_index=IGNORE, label_smoothing=0.03)
    valid = targets != IGNORE
    truth = F.one_hot(targets.masked_fill(~valid, 0), len(CLASSES)).permute(0, 3, 1, 2) * valid[:, None]
    predicted = outputs.softmax(1) * valid[:, None]
    intersection, total = (predicted * truth).sum((0, 2, 3)), (predicted + truth).sum((0, 2, 3))
    dice = 1 - (2 * intersection + 1) / (total + 1)
    return cross_entropy + 0.5 * dice.mean()


@torch.inference_mode()
def intersection_over_union(predict: Predict, pixels: Tensor, masks: Tensor) -> tuple[float, float]:
    """Mean IoU over the classes, and IoU of foreground against background, both over all pixels of the split."""
    k = len(CLASSES)
    confusion = torch.zeros(k, k, dtype=torch.long, device=pixels.device)
    for x, y in zip(torch.split(pixels, 10), torch.split(masks, 10), strict=True):
        predicted = F.interpolate(predict(x), size=y.shape[1:], mode="bilinear").argmax(1)
        valid = y != IGNORE
        confusion += torch.bincount(y[valid].long() * k + predicted[valid], minlength=k * k).view(k, k)
    hits = confusion.diagonal()
    iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)
    foreground = confusion[1:, 1:].sum()
    return float(iou.mean()), float(foreground / (confusion.sum() - confusion[0, 0]))


def measure(predict: Predict, data: Path) -> dict[str, float]:
    """The metrics of the manifest, on the split `test`."""
    mean, foreground = intersection_over_union(predict, *load(data, "test"))
    return {"mean_iou": mean, "foreground_iou": foreground}


def train(data: Path, epochs: int | None = None) -> nn.Module:
    """Train on the split `train` for `epochs`; the test IoU is only printed, nothing is selected by it."""
    count = epochs or EPOCHS
    seed_everything(SEED)
    device = select_device()
    pixels, masks = (t.to(device) for t in load(data, "train"))
    test = [t.to(device) for t in load(data, "test")]
    network = to_device(Network(), device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = OneCycleLR(optimizer, max_lr=2e-3, total_steps=count * (len(pixels) // BATCH), pct_start=0.15)

    def print_iou(epoch: int, average: nn.Module) -> None:
        if epoch % 10 == 4 or epoch == count - 1:
            mean, foreground = intersection_over_union(lambda x: average(normalize(x, MEAN, STD)), *test)
            print(f"  test mean IoU {mean:.4f}, foreground IoU {foreground:.4f}", flush=True)

    batches = shuffled_epochs(pixels, masks, count, BATCH, augment)
    return fit(network, optimizer, schedule, batches, loss, 0.998, print_iou)


RECIPE = Recipe(
    network=Network,
    train=train,
    measure=measure,
    description=BundleDescription(
        name="clothing",
        version=1,
        task="segmentation",
        labels=CLASSES,
        activation="softmax",
        preprocessing=Preprocessing(height=HEIGHT, width=WIDTH, **unit_normalization(MEAN, STD)),
        layers=(
            *(IMAGE, "stem", "stage1", "stage2", "stage3", "stage4"),
            *("smooth4", "smooth3", "smooth2", "smooth1", "merge"),
        ),
        cam_layer="merge",
        provenance=recipe_provenance(
            "clothing", "Clothing Co-Parsing (Yang et al. 2014), 8 classes merged from its 59; Apache-2.0"
        ),
        palette=PALETTE,
        background=0,
    ),
)
