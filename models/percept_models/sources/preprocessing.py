"""The preprocessing of a source: what its makers state, and what the user gives, as one `Preprocessing`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from percept.bundle.preprocessing import CHANNEL_COUNTS, Channels, Preprocessing
from percept.errors import BundleError
from percept_models.graph.reader import Array

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey, ITU-R 601-2


def unit_normalization(mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """Mean and std in units of 0..1 as the fields of `Preprocessing`, which are in units of 0..255."""
    return {"mean": tuple(255 * v for v in mean), "std": tuple(255 * v for v in std)}


def normalize_pixels(pixels: Array, preprocessing: Preprocessing) -> Array:
    """Pixels uint8 [...,C] as float32 [...,C] in the network's order of channels: (pixels - mean) / std."""
    x = pixels[..., ::-1] if preprocessing.channels == "BGR" else pixels
    mean, std = (np.array(v, np.float32) for v in (preprocessing.mean, preprocessing.std))
    return np.asarray((x.astype(np.float32) - mean) / std)


def guess_preprocessing(size: int) -> Preprocessing:
    """The guess for a network whose makers state nothing: the whole photo, with ImageNet's mean and std."""
    return Preprocessing(height=size, width=size, **unit_normalization(IMAGENET_MEAN, IMAGENET_STD))


def convert_guess(guess: Preprocessing, channels: Channels) -> Preprocessing:
    """A guess for RGB as one for other channels: BGR in its order, grey as its luma, and an alpha from 0 to 1."""
    mean, std = guess.mean, guess.std
    if guess.channels == channels or guess.channels != "RGB":
        return guess
    if channels == "GRAY":
        mean, std = (sum(a * b for a, b in zip(LUMA, mean, strict=True)),), (sum(std) / len(std),)
    elif channels == "BGR":
        mean, std = mean[::-1], std[::-1]
    else:
        mean, std = (*mean, 0.0), (*std, 255.0)
    return guess.model_copy(update={"channels": channels, "mean": mean, "std": std})


def merge_preprocessing(guess: Preprocessing, given: Mapping[str, Any], crop_pct: float | None = None) -> Preprocessing:
    """The guess with the given fields; the size before a crop grows with that of the input unless it is given.

    `crop_pct` is the length of the input as a share of that size, where the makers state this instead. A given mean or
    std of one number is that of every channel. Raises `BundleError` where they have another number of channels than the
    network, or where an option has no effect.
    """
    merged = convert_guess(guess, given.get("channels", guess.channels)).model_dump() | dict(given)
    count = CHANNEL_COUNTS[merged["channels"]]
    for name in ("mean", "std"):
        merged[name] = merged[name] * count if len(merged[name]) == 1 else merged[name]
        if len(merged[name]) != count:
            raise BundleError(
                f"--{name} has {len(merged[name])} numbers, and {merged['channels']} images have "
                f"{count} channel{'s' * (count > 1)}: give one number, or one for each channel"
            )
    merged |= _merge_resize(guess, given, crop_pct)
    height, width = merged["resize_size"] or (merged["height"], merged["width"])
    is_padded = merged["resize"] == "pad" or height < merged["height"] or width < merged["width"]
    if "fill" in given and not is_padded:
        raise BundleError("--fill is the colour around a photo that is padded: it needs --resize pad")
    return Preprocessing(**merged)


def _merge_resize(guess: Preprocessing, given: Mapping[str, Any], crop_pct: float | None) -> dict[str, Any]:
    """`resize_size` and `short_side`: as given, else the guess's, in proportion to the size of the input."""
    if given.get("resize_size") and given.get("short_side"):
        raise BundleError("--resize-size and --crop both give the size before the crop: give one of them")
    rule = given.get("resize", guess.resize)
    size = given.get("height", guess.height), given.get("width", guess.width)
    resized = guess.resize_size or ((guess.short_side,) * 2 if guess.short_side else None)
    ratios = [a / b for a, b in zip(resized, (guess.height, guess.width), strict=True)] if resized else [1.0, 1.0]
    if rule != guess.resize:
        scaled = size
    elif crop_pct:
        scaled = int(size[0] / crop_pct), int(size[1] / crop_pct)
    else:
        scaled = round(size[0] * ratios[0]), round(size[1] * ratios[1])
    if given.get("resize_size", guess.resize_size):
        crop = given.get("short_side")
        return {"short_side": None, "resize_size": given.get("resize_size") or ((crop, crop) if crop else scaled)}
    short_side = given.get("short_side") or max(*scaled, *size)
    return {"short_side": short_side if rule == "crop" else None, "resize_size": None}
