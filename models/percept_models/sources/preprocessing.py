"""The preprocessing of a source: what its makers state, and what the user gives, as one `Preprocessing`."""

from collections.abc import Mapping, Sequence
from typing import Any

from percept.bundle.preprocessing import Preprocessing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def unit_normalization(mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """Mean and std in units of 0..1 as the fields of `Preprocessing`, which are in units of 0..255."""
    return {"mean": tuple(255 * v for v in mean), "std": tuple(255 * v for v in std)}


def guess_preprocessing(size: int) -> Preprocessing:
    """The guess for a network whose makers state nothing: the whole photo, with ImageNet's mean and std."""
    return Preprocessing(height=size, width=size, **unit_normalization(IMAGENET_MEAN, IMAGENET_STD))


def merge_preprocessing(guess: Preprocessing, given: Mapping[str, Any]) -> Preprocessing:
    """The guess with the given fields; the short side before a crop grows with the size unless it is given."""
    merged = guess.model_dump() | dict(given)
    if merged["resize"] != "crop":
        merged["short_side"] = None
    elif "short_side" not in given:
        longest = max(merged["height"], merged["width"])
        ratio = guess.short_side / max(guess.height, guess.width) if guess.short_side else 1.0
        merged["short_side"] = max(round(longest * ratio), longest)
    return Preprocessing(**merged)
