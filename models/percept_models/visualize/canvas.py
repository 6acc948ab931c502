"""Pictures as Adam should see them: a spectrum whose frequencies weigh alike, in colours that do not correlate.

A `Canvas` of n pictures holds free numbers z [n,3,H,W/2+1,2], real and imaginary parts, and shows the pixels

    x = 255 · sigmoid(min(1, ρ / ‖p‖) p),  p = M · F⁻¹(z / fᵃ)    in 0..255, RGB, [n,3,H,W]

where f is the frequency, bounded below by one cycle per picture, F the real Fourier transform, and M the square root of
the covariance of the colours of natural images (Olah et al. 2017, doi:10.23915/distill.00007, "Preconditioning and
Parameterization"; the figures of M as published with Lucid). ‖p‖ is the root mean square of a picture, which is bounded
by ρ (Erhan et al. 2009, "Visualizing higher-layer features of a deep network"). `moved` is the hand that shakes.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

M = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
M = M / M.norm(dim=0).max()
DECAY = 1.25  # a: 1 is the slope of photos; above it textures of single pixels come later
FAINT, NATURAL = 0.01, 0.4  # standard deviation of z: nearly grey, and with the contrast of photos
STRONG = 1.2  # ρ of a picture as rich in contrast as any photo
TURN, SCALE, SHIFT = math.radians(10), 0.12, 0.06  # at most; the shift as a share of the longer side


class Canvas(nn.Module):
    """`count` pictures of noise of `size` (H, W), from a seed; z, of standard deviation `contrast`, is the parameter.

    `most` is ρ.
    """

    def __init__(
        self, count: int, size: tuple[int, int], seed: int = 0, contrast: float = FAINT, most: float = math.inf
    ) -> None:
        super().__init__()
        self.most = most
        self.size = height, width = size
        f = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]) * max(size)
        self.weight: Tensor
        self.register_buffer("weight", math.sqrt(height * width) * max(size) / 4 / f.clamp(min=1) ** DECAY)
        noise = torch.Generator().manual_seed(seed)
        self.z = nn.Parameter(contrast * torch.randn((count, 3, *f.shape, 2), generator=noise))

    def forward(self) -> Tensor:
        """The pixels, float32 [n,3,H,W] RGB in 0..255."""
        planes = torch.fft.irfft2(torch.view_as_complex(self.z) * self.weight, s=self.size)
        planes = torch.einsum("rc,nchw->nrhw", M, planes)
        strength = planes.square().mean((1, 2, 3), keepdim=True).sqrt()
        return 255 * torch.sigmoid(planes / (strength / self.most).clamp(min=1))


def moved(x: Tensor, noise: torch.Generator) -> Tensor:
    """Each picture of [n,3,H,W] turned, scaled and shifted a little by chance, mirrored at its edges."""
    n, _, height, width = x.shape

    def chance(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=noise) - 1

    angle, scale = TURN * chance(n), 1 + SCALE * chance(n)
    cos, sin, aspect = scale * angle.cos(), scale * angle.sin(), height / width
    reach = 2 * SHIFT * max(height, width)  # in the units of affine_grid a side is 2 long
    right, down = reach / width * chance(n), reach / height * chance(n)
    rows = torch.stack([cos, -sin * aspect, right, sin / aspect, cos, down], 1).view(n, 2, 3)
    places = F.affine_grid(rows, [*x.shape], align_corners=False)
    return F.grid_sample(x, places, padding_mode="reflection", align_corners=False)


def roughness(x: Tensor) -> Tensor:
    """The total variation of each of [n,3,H,W] in 0..255: mean |∇x| in units of 255, [n]."""
    x = x / 255
    down, right = x.diff(dim=2)[..., :-1], x.diff(dim=3)[:, :, :-1]
    return (down.square() + right.square() + 1e-8).sqrt().mean((1, 2, 3))
