"""The channels that a torch network takes are those of its first convolution, where it runs on them."""

import pytest
import torch
from torch import Tensor, nn

from percept_models.sources.channels import describe_mismatch, guess_channels
from percept_models.sources.preprocessing import convert_guess, guess_preprocessing

GUESS = guess_preprocessing(8)


def convolution(channels: int) -> nn.Module:
    """A classifier of four classes of images with so many channels."""
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Attention(nn.Module):
    """A convolution of one channel is defined before the one of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial, self.body = nn.Conv2d(1, 1, 3, padding=1), convolution(3)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.body(x * self.spatial(x.mean(1, keepdim=True)))


class Repeated(nn.Module):
    """Takes grey images, and repeats them for a network of three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolution(3)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.body(x.repeat(1, 3, 1, 1))


@pytest.mark.parametrize(("channels", "expected"), [(1, "GRAY"), (3, "RGB"), (4, "RGBA")])
def test_channels_are_guessed_from_the_first_convolution(channels: int, expected: str) -> None:
    assert guess_channels(convolution(channels), GUESS) == expected


def test_first_convolution_of_other_tensors_is_ignored() -> None:
    class Strict(Attention):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[1] == 3
            return super().forward(x)

    assert guess_channels(Strict(), GUESS) == "RGB"
    assert guess_channels(nn.Flatten(), GUESS) == "RGB"


def test_failure_names_channels_that_run() -> None:
    assert "it runs on GRAY images, not on RGB: use --channels GRAY" in describe_mismatch(Repeated(), GUESS)
    assert "takes 2 channels: only networks of images with 1, 3 or 4" in describe_mismatch(convolution(2), GUESS)
    assert describe_mismatch(nn.Linear(5, 5), GUESS) == ""


def test_guess_for_rgb_is_converted_to_other_channels() -> None:
    grey, rgba = convert_guess(GUESS, "GRAY"), convert_guess(GUESS, "RGBA")
    assert grey.mean == pytest.approx((255 * (0.299 * 0.485 + 0.587 * 0.456 + 0.114 * 0.406),))
    assert grey.std == pytest.approx((255 * 0.6780 / 3,), rel=1e-3)
    assert (rgba.mean, rgba.std) == ((*GUESS.mean, 0.0), (*GUESS.std, 255.0))
    assert convert_guess(GUESS, "BGR").mean == GUESS.mean[::-1]


def test_guess_does_not_change_the_network() -> None:
    network = convolution(1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    guess_channels(network, GUESS)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
