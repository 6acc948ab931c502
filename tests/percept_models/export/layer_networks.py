"""Networks whose maps lie in other layouts, or whose modules have unusual names: sources for `percept export`."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

MODULE = __name__
SIZE = (16, 24)
CHANNELS = 8
ODD_NAMES = ("_blocks", "Stage", "stage", "größe 2:0/x", "a+b")


class Attention(nn.Module):
    """Self-attention of two heads over tokens [N,T,C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, t, c))


class Block(nn.Module):
    """A block of a transformer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(channels), Attention(channels), nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Five blocks over patches of 4 x 4 pixels; the head reads a class token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch_embed = nn.Conv2d(3, CHANNELS, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, CHANNELS))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + SIZE[0] * SIZE[1] // 16, CHANNELS))
        self.blocks = nn.Sequential(*(Block(CHANNELS) for _ in range(5)))
        self.norm, self.head = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class WindowBlock(nn.Module):
    """A block over a map [N,h,w,C] whose attention is that of windows of 2 x 2 cells, as in Swin."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(channels), Attention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        n, h, w, c = x.shape
        y = self.norm(x).reshape(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        y = self.attn(y).reshape(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return x + y


class OddNames(nn.Module):
    """A convolution, a block over windows, and stages whose names are no identifiers or differ in case only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, CHANNELS, 2, 2)
        self.block = WindowBlock(CHANNELS)
        for name in ODD_NAMES:
            self._modules[name] = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU())
        self._modules["\x1b[2J"] = nn.ReLU()  # it would clear a terminal
        self.head = nn.Linear(CHANNELS, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        x = self.block(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        for name in ODD_NAMES:
            x = self._modules[name](x)  # type: ignore[misc]
        return self.head(self._modules["\x1b[2J"](x).mean((2, 3)))  # type: ignore[misc]


def transformer() -> nn.Module:
    """With a class token."""
    return VisionTransformer()


def operator_names() -> nn.Module:
    """A classifier whose modules are named like operators."""
    modules = {"conv": nn.Conv2d(3, 4, 3), "relu": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1)}
    return nn.Sequential(OrderedDict({**modules, "flatten": nn.Flatten(), "gemm": nn.Linear(4, 2)}))


def odd_names() -> nn.Module:
    """With maps in [N,h,w,C]."""
    return OddNames()
