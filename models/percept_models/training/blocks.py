"""The blocks of both built-in networks: convolution, batch norm and residuals (He et al. 2015, arXiv:1512.03385).

After training, `fold_batch_norms` merges every batch norm into its convolution, so that the exported, the verified and
the served network have the same weights.
"""

from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval


class ConvNorm(nn.Module):
    """A convolution without bias followed by batch norm; no activation."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N,inputs,h,w] → [N,outputs,h/stride,w/stride]."""
        y: Tensor = self.norm(self.conv(x))
        return y


class Residual(nn.Module):
    """relu(shortcut(x) + f(x)), f two 3x3 convolutions; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, stride=stride)
        self.second = ConvNorm(outputs, outputs)
        same_shape = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same_shape else ConvNorm(inputs, outputs, size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N,inputs,h,w] → [N,outputs,h/stride,w/stride]."""
        y: Tensor = self.shortcut(x) + self.second(self.first(x).relu())
        return y.relu()


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Merge every batch norm into the convolution before it, in place; the network must be in `eval` mode."""
    for module in network.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
    return network
