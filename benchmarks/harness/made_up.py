"""MADE_UP: small torch networks, one for each way of writing a network that an export may get wrong.

A row builds the network, and says what its classes' scores are in torch, or that the export must refuse it and why.
All but those of other inputs take float32 [N,3,64,64].
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 64


@dataclass(frozen=True)
class MadeUp:
    """A network, and the function from its output to scores [N,K] or [N,K,h,w].

    `refused` is a part of the message with which the export must refuse the network. `options` are further fields of
    `ExportOptions`, and `channels` is the number of channels of its images. Of a network that gives no scores, only the
    index of the class, `only_class` compares that.
    """

    build: Callable[[], nn.Module]
    scores: Callable[[Any], Tensor] = lambda output: output.softmax(1)
    refused: str | None = None
    options: Mapping[str, Any] | None = None
    channels: int = 3
    only_class: bool = False


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        """Call the function."""
        return self.function(*inputs)


class Residual(nn.Module):
    """`combine(x, branch(x))`."""

    def __init__(self, branch: nn.Module, combine: Callable[[Tensor, Tensor], Tensor] = torch.add) -> None:
        super().__init__()
        self.branch, self.combine = branch, combine

    def forward(self, x: Tensor) -> Tensor:
        """Combine the input with its branch."""
        return self.combine(x, self.branch(x))


class NamedLogits(NamedTuple):
    """An output with one field."""

    logits: Tensor


@dataclass
class Detections:
    """An output with two fields of which either may be logits."""

    scores: Tensor
    boxes: Tensor


def body(channels: int = 3, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Two convolutions: [N,channels,64,64] → [N,16,16,16]."""
    first = (nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), activation())
    return nn.Sequential(*first, nn.Conv2d(8, 16, 3, 2, 1), activation())


def mean(x: Tensor) -> Tensor:
    """The mean of each channel, [N,C]."""
    return x.mean((2, 3))


def classifier(*middle: nn.Module, classes: int = 5, width: int = 16, end: nn.Module | None = None) -> nn.Sequential:
    """A body, further modules, global pooling, a linear layer and an end."""
    return nn.Sequential(body(), *middle, Apply(mean), nn.Linear(width, classes), *([end] if end else []))


def segmenter(*end: nn.Module, classes: int = 5) -> nn.Sequential:
    """A body, a head of 1 x 1 convolutions and an end; without an end, bilinear interpolation."""
    up = end or (nn.Upsample(scale_factor=4, mode="bilinear"),)
    return nn.Sequential(body(), nn.Conv2d(16, classes, 1), *up)


def up(*end: nn.Module) -> tuple[nn.Module, ...]:
    """Bilinear interpolation, and an end."""
    return nn.Upsample(scale_factor=4, mode="bilinear"), *end


def two_classes(y: Tensor) -> Tensor:
    """Scores of two classes from a logit [N], [N,1], [N,h,w] or [N,1,h,w]."""
    return from_probability(y.sigmoid())


def from_probability(p: Tensor) -> Tensor:
    """Scores of two classes from the probability of the second."""
    p = p if p.dim() > 1 and p.shape[1] == 1 else p[:, None]
    return torch.cat([1 - p, p], 1)


def one_hot(classes: int) -> Callable[[Tensor], Tensor]:
    """Scores 0 and 1 from the index of the class, [N] or [N,h,w]."""
    return lambda y: F.one_hot(y.long().reshape(len(y), *y.shape[-2:] if y.dim() > 2 else ()), classes).movedim(-1, 1)


def identity(y: Tensor) -> Tensor:
    """The network's own scores."""
    return y


def with_output(output: Callable[[Tensor], Any]) -> nn.Module:
    """A classifier whose output is a function of its logits [N,5]."""
    return classifier(end=Apply(output))


class AlwaysTraining(nn.Sequential):
    """A sequence that stays in training mode."""

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002  # the fault that it stands for
        """Enter training mode, also when evaluation mode is requested."""
        return super().train(True)


def named(**modules: nn.Module) -> nn.Sequential:
    """A sequence of named modules."""
    return nn.Sequential(OrderedDict(modules))


def attention() -> nn.Module:
    """Self-attention over cells, added to the features."""
    attend = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(x: Tensor) -> Tensor:
        cells = x.flatten(2).transpose(1, 2)
        attended: Tensor = attend(cells, cells, cells, need_weights=False)[0]
        return (cells + attended).transpose(1, 2).reshape(x.shape)

    module = Apply(forward)
    module.attend = attend
    return module


def spatial_transformer() -> nn.Module:
    """An affine transformation of the features that the network predicts (Jaderberg et al. 2015, arXiv:1506.02025)."""
    predict = nn.Linear(16, 6)

    def forward(x: Tensor) -> Tensor:
        grid = F.affine_grid(predict(mean(x)).view(-1, 2, 3), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)

    module = Apply(forward)
    module.predict = predict
    return module


def unpooling() -> nn.Module:
    """Max pooling and its inverse by indices, as in SegNet (Badrinarayanan et al. 2017)."""

    class Unpool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 4, 3, 1, 1)
            self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            y, indices = self.pool(F.relu(self.conv(x)))
            scores: Tensor = self.head(self.unpool(y, indices))
            return scores

    return Unpool()


def top_ten(x: Tensor) -> Tensor:
    """The mean of the ten greatest cells of each channel, [N,C,1,1]."""
    return x.flatten(2).topk(10, -1)[0].mean(-1)[..., None, None]


def median(x: Tensor) -> Tensor:
    """The median of the 256 cells of each channel, [N,C,1,1]."""
    return x.flatten(2).sort(-1)[0][..., 127][..., None, None]


def option_a_shortcut(x: Tensor, y: Tensor) -> Tensor:
    """ResNet's parameter-free shortcut: every second cell, and zeros for new channels (He et al. 2015)."""
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)) + y


ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    name: getattr(nn, name)
    for name in (
        *("CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid"),
        *("Mish", "PReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh"),
        "Tanhshrink",
    )
}
NORMALIZATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "batch": lambda: nn.BatchNorm2d(16),
    "group": lambda: nn.GroupNorm(4, 16),
    "instance": lambda: nn.InstanceNorm2d(16, affine=True),
    "layer": lambda: nn.LayerNorm([16, 16, 16]),
    "local response": lambda: nn.LocalResponseNorm(5),
    "RMS": lambda: nn.RMSNorm([16, 16, 16]),
    "z-score of the features": lambda: Apply(
        lambda x: (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 1)
    ),
}
POOLINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "maximum": lambda x: F.adaptive_max_pool2d(x, 1),
    "adaptive, 5 x 7": lambda x: F.adaptive_avg_pool2d(x, (5, 7)),
    "average, ceil mode": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average, without padding": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "average, divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "maximum, ceil mode": lambda x: F.max_pool2d(x, 3, 3, 1, ceil_mode=True),
    "maximum, dilated": lambda x: F.max_pool2d(x, 3, 2, 1, dilation=2),
    "of zero-padded features": lambda x: F.max_pool2d(F.pad(x - 1, (1, 1, 1, 1)), 3, 2),
    "power": lambda x: F.lp_pool2d(x.clamp(min=1e-3), 2, 16),
    "generalized mean": lambda x: x.clamp(min=1e-6).pow(3).mean((2, 3), keepdim=True).pow(1 / 3),
    "log-sum-exp": lambda x: x.logsumexp((2, 3), keepdim=True),
    "standard deviation": lambda x: x.std((2, 3), keepdim=True),
    "by view": lambda x: x.view(x.size(0), x.size(1), -1).mean(-1)[..., None, None],
    "by einsum": lambda x: torch.einsum("nchw->nc", x)[..., None, None] / 256,
}
RESHAPES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "channels cut": lambda x: torch.cat([x[:, :8], x[:, 8:] * 2], 1),
    "border cut": lambda x: x[:, :, 1:-1, 2:-2],
    "every second cell": lambda x: x[..., ::2, ::2],
    "chunks": lambda x: torch.cat(list(reversed(x.chunk(2, 1))), 1),
    "narrow": lambda x: x.narrow(1, 0, 16),
    "flip": lambda x: x + x.flip(3),
    "roll": lambda x: x + torch.roll(x, (1, 1), (2, 3)),
    "channel shuffle": lambda x: x.reshape(x.size(0), 4, 4, 16, 16).transpose(1, 2).flatten(1, 2),
    "channels last and back": lambda x: x.permute(0, 2, 3, 1).contiguous().relu().permute(0, 3, 1, 2),
    "cumulative sum": lambda x: x.cumsum(-1) / 16,
    "pixel shuffle": lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2),
    "reflected border": lambda x: F.pad(x, (2, 1, 1, 2), mode="reflect"),
    "repeated border": lambda x: F.pad(x, (2, 1, 1, 2), mode="replicate"),
    "circular border": lambda x: F.pad(x, (2, 1, 1, 2), mode="circular"),
    "squeeze and excite": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "spatial attention": lambda x: x * torch.sigmoid(x.mean(1, keepdim=True) + x.amax(1, keepdim=True)),
    "where": lambda x: torch.where(x > 0.1, x, 0.1 * x),
    "scatter": lambda x: x.index_add(1, torch.tensor([0, 3]), x[:, :2]),
    "rounded": lambda x: x + (x * 8).round() / 8,
    "outer product": lambda x: (x.flatten(2) @ x.flatten(2).transpose(1, 2) / 256)[:, :, :, None],
}
UPSAMPLINGS: Mapping[str, nn.Module] = {
    "nearest": nn.Upsample(scale_factor=4),
    "nearest-exact": nn.Upsample(size=(61, 67), mode="nearest-exact"),
    "bilinear": nn.Upsample(scale_factor=4, mode="bilinear"),
    "bilinear, corners": nn.Upsample(scale_factor=4, mode="bilinear", align_corners=True),
    "bilinear, 2.5 times": nn.Upsample(scale_factor=2.5, mode="bilinear"),
    "bicubic": nn.Upsample(scale_factor=4, mode="bicubic"),
    "none": nn.Identity(),
}
