"""The channels of the images that a torch network takes: guessed from its first convolution.

Percept serves images of one channel (grey), three (RGB or BGR) and four (RGBA). A torch network does not state which it
takes: of its modules, only the first convolution, in the order of definition, suggests their number.
"""

from collections.abc import Mapping

import torch
from torch import nn

from percept.bundle.preprocessing import CHANNEL_COUNTS, Channels, Preprocessing
from percept_models.sources.preprocessing import convert_guess
from percept_models.sources.trunk import Trunk, example_pixels

CHANNELS_BY_COUNT: Mapping[int, Channels] = {1: "GRAY", 3: "RGB", 4: "RGBA"}


def guess_channels(network: nn.Module, guess: Preprocessing) -> Channels:
    """The channels that the first convolution takes; those of the guess where it takes no image.

    Where the network runs only with the channels of the guess, on images of its size, these are returned too: the first
    convolution is then not the one that takes the image.
    """
    suggested = CHANNELS_BY_COUNT.get(_first_convolution_channels(network) or 0, guess.channels)
    if CHANNEL_COUNTS[suggested] == CHANNEL_COUNTS[guess.channels]:
        return guess.channels
    only_guess_runs = not _runs(network, convert_guess(guess, suggested)) and _runs(network, guess)
    return guess.channels if only_guess_runs else suggested


def describe_mismatch(network: nn.Module, preprocessing: Preprocessing) -> str:
    """Why a network may have failed on images of these channels, to stand after the failure; empty where unknown."""
    channels, count = preprocessing.channels, CHANNEL_COUNTS[preprocessing.channels]
    for other in CHANNELS_BY_COUNT.values():
        sized = Preprocessing(height=preprocessing.height, width=preprocessing.width, channels=other)
        if CHANNEL_COUNTS[other] != count and _runs(network, sized):
            return f" (it runs on {other} images, not on {channels}: use --channels {other})"
    found = _first_convolution_channels(network)
    if found is None or found in CHANNELS_BY_COUNT:
        return ""
    return (
        f" (its first convolution takes {found} channels: only networks of images with 1, 3 or 4 channels can be "
        "exported)"
    )


def _first_convolution_channels(network: nn.Module) -> int | None:
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return next((module.in_channels for module in convolutions), None)


def _runs(network: nn.Module, preprocessing: Preprocessing) -> bool:
    trunk = Trunk(network.cpu(), preprocessing, ())
    try:
        with torch.no_grad():
            trunk.network(trunk.normalized(example_pixels(preprocessing)))
    except Exception:  # a module may raise errors of every type
        return False
    return True
