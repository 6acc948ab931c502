"""The preprocessing that a source states, merged with what the user gives."""

from typing import Any

import pytest

from percept.bundle.preprocessing import Preprocessing
from percept.errors import BundleError
from percept_models.sources.preprocessing import merge_preprocessing


def test_short_side_grows_with_the_size_unless_given() -> None:
    guess = Preprocessing(height=224, width=224, resize="crop", short_side=256)
    assert merge_preprocessing(guess, {"height": 448, "width": 448}).short_side == 512
    assert merge_preprocessing(guess, {"short_side": 300}).short_side == 300
    assert merge_preprocessing(guess, {"resize": "squeeze"}).short_side is None
    assert merge_preprocessing(Preprocessing(height=8, width=9), {"resize": "crop"}).short_side == 9


@pytest.mark.parametrize(
    ("given", "resized"),
    [
        ({}, ("crop", (256, 256), None)),
        ({"height": 112, "width": 448}, ("crop", (128, 512), None)),
        ({"resize": "crop", "short_side": 300}, ("crop", (300, 300), None)),
        ({"resize_size": (240, 250)}, ("crop", (240, 250), None)),
        ({"resize": "squeeze"}, ("squeeze", (224, 224), None)),
        ({"resize": "pad", "fill": (1, 2, 3)}, ("pad", (224, 224), None)),
        ({"resize_size": None}, ("crop", None, 256)),
        ({"resize_size": None, "resize": "crop", "short_side": 300}, ("crop", None, 300)),
        ({"resize_size": None, "resize": "pad"}, ("pad", None, None)),
    ],
)
def test_size_before_the_crop_follows_the_options(given: dict[str, Any], resized: tuple[Any, ...]) -> None:
    """A network of torchvision or timm keeps their way of resizing unless `resize_size` is given as None."""
    guess = Preprocessing(height=224, width=224, resize="crop", resize_size=(256, 256))
    merged = merge_preprocessing(guess, given)
    assert (merged.resize, merged.resize_size, merged.short_side) == resized


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"fill": (1, 2, 3)}, "--resize pad"),
        ({"resize": "crop", "short_side": 9, "fill": (1, 2, 3)}, "--resize pad"),
        ({"resize": "crop", "resize_size": (9, 9), "fill": (1, 2, 3)}, "--resize pad"),
        ({"resize": "crop", "short_side": 9, "resize_size": (9, 9)}, "give one of them"),
    ],
)
def test_options_without_effect_are_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        merge_preprocessing(Preprocessing(height=8, width=8), given)


def test_one_number_is_that_of_every_channel() -> None:
    guess = Preprocessing(height=8, width=8)
    merged = merge_preprocessing(guess, {"channels": "RGBA", "mean": (127.5,), "std": (1.0, 2.0, 3.0, 4.0)})
    assert (merged.mean, merged.std) == ((127.5,) * 4, (1.0, 2.0, 3.0, 4.0))
    assert merge_preprocessing(guess, {"channels": "GRAY", "std": (9.0,)}).std == (9.0,)
    with pytest.raises(BundleError, match=r"--mean has 3 numbers, and GRAY images have 1 channel: give one number"):
        merge_preprocessing(guess, {"channels": "GRAY", "mean": (1.0, 2.0, 3.0)})
