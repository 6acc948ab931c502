"""Images parameterized for gradient ascent: in a Fourier basis of equal energies, in decorrelated colours.

An `ImageParameterization` of n images holds free parameters z [n,c,H,W/2+1,2], real and imaginary parts, and gives

    x = 255 · sigmoid(min(1, ρ / ‖p‖) p),  p = M · F⁻¹(z / fᵃ)    in 0..255, [n,C,H,W]

where f is the frequency, at least one cycle per image, F the real Fourier transform, and M the square root of the
covariance of the colours of natural images (Olah et al. 2017, doi:10.23915/distill.00007, "Preconditioning and
Parameterization"; the numbers of M as published with Lucid). ‖p‖ is the root mean square of an image, bounded by ρ
(Erhan et al. 2009, "Visualizing higher-layer features of a deep network"). Grey images have c = C = 1, and the first
component of M, nearly a grey, for M. Images with an alpha have c = 3, C = 4: they are opaque.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from percept_models.sources.preprocessing import LUMA

M = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
M = M / M.norm(dim=0).max()
GREY = (torch.tensor([LUMA]) @ M)[:, :1]  # what the first component adds to the luma
OPAQUE = 255.0
DECAY = 1.25  # a: 1 is the spectrum of photos; more postpones textures of single pixels
FAINT, NATURAL = 0.01, 0.4  # standard deviation of z: nearly grey images, and images with the contrast of photos
STRONG = 1.2  # ρ of images with as much contrast as any photo


class ImageParameterization(nn.Module):
    """`count` noise images of `shape` (H, W, C), C of 1, 3 or 4, from a random `seed`.

    The parameter is z, initialized with the standard deviation `contrast`; `rho` is ρ.
    """

    def __init__(
        self, count: int, shape: tuple[int, int, int], seed: int = 0, contrast: float = FAINT, rho: float = math.inf
    ) -> None:
        super().__init__()
        self.rho = rho
        height, width, self.channels = shape
        self.size = size = height, width
        self.colours = GREY if self.channels == 1 else M
        f = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]) * max(size)
        self.weight: Tensor
        self.register_buffer("weight", math.sqrt(height * width) * max(size) / 4 / f.clamp(min=1) ** DECAY)
        generator = torch.Generator().manual_seed(seed)
        self.z = nn.Parameter(contrast * torch.randn((count, self.colours.shape[1], *f.shape, 2), generator=generator))

    def forward(self) -> Tensor:
        """The images, float32 [n,C,H,W] in 0..255."""
        p = torch.fft.irfft2(torch.view_as_complex(self.z) * self.weight, s=self.size)
        p = torch.einsum("rc,nchw->nrhw", self.colours, p)
        norm = p.square().mean((1, 2, 3), keepdim=True).sqrt()
        x = 255 * torch.sigmoid(p / (norm / self.rho).clamp(min=1))
        return F.pad(x, (0, 0, 0, 0, 0, 1), value=OPAQUE) if self.channels == 4 else x
