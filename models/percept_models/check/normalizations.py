"""NORMALIZATIONS and resize rules that networks are commonly trained with, as options of `percept export`.

In comes the preprocessing that an export would use; out come the likely ones, each with the options that give it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from percept.bundle.preprocessing import Channels, Preprocessing
from percept_models.export.options import parse_preprocessing
from percept_models.graph.reader import Array
from percept_models.sources.preprocessing import merge_preprocessing, normalize_pixels

# channels → the name of a normalization → the options of `percept export` that give it
NORMALIZATIONS: Mapping[Channels, Mapping[str, str]] = {
    "RGB": {
        "0..1, ImageNet": "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
        "0..1": "--mean 0 --std 1",
        "-1..1": "--mean 0.5 --std 0.5",
        "0..255": "--mean 0 --std 1 --range 255",
        "BGR - mean, Caffe": "--channels bgr --mean 103.939,116.779,123.68 --std 1",
    },
    "GRAY": {
        "0..1": "--mean 0 --std 1",
        "0..1, MNIST": "--mean 0.1307 --std 0.3081",
        "-1..1": "--mean 0.5 --std 0.5",
        "0..255": "--mean 0 --std 1 --range 255",
    },
    "RGBA": {
        "0..1": "--mean 0 --std 1",
        "-1..1": "--mean 0.5 --std 0.5",
        "0..255": "--mean 0 --std 1 --range 255",
    },
}
BY_NETWORK = "by the network"  # the name of the only row of a network that normalizes the pixels itself
CROP = 0.875  # the share of the short side that is commonly cropped, as in 224 of 256


@dataclass(frozen=True)
class Candidate:
    """A likely preprocessing, and the options that give it; `is_own` if an export would use it without them."""

    normalization: str
    resize: str
    options: str
    preprocessing: Preprocessing
    is_own: bool = False


def list_candidates(own: Preprocessing, given: Mapping[str, Any], normalizes: bool = False) -> list[Candidate]:
    """The likely preprocessings of a network: each normalization with each resize rule.

    `own` is what an export would use, and `given` the fields that the user fixed: these do not vary, except that mean
    and std are compared with those of the table. What an export would use comes first where the table lacks it. A
    network that `normalizes` its pixels itself gets them as they are.
    """
    rules = _resize_rules(own, given)
    found = [
        _candidate(own, name, options, resize, resize_options)
        for name, options in ({BY_NETWORK: ""} if normalizes else _normalizations(own, given)).items()
        for resize, resize_options in rules.items()
    ]
    if any(candidate.is_own for candidate in found):
        return found
    return [_candidate(own, "as exported", "", resize, options) for resize, options in rules.items()] + found


def normalize(pixels: Array, preprocessing: Preprocessing) -> Array:
    """Pixels uint8 [H,W,C] as the network's image float32 [C,H,W], in its order of channels."""
    return np.ascontiguousarray(normalize_pixels(pixels, preprocessing).transpose(2, 0, 1))


def _normalizations(own: Preprocessing, given: Mapping[str, Any]) -> Mapping[str, str]:
    table = NORMALIZATIONS.get("RGB" if own.channels == "BGR" else own.channels, {})
    if "channels" in given:
        return {name: options for name, options in table.items() if "--channels" not in options}
    return table


def _resize_rules(own: Preprocessing, given: Mapping[str, Any]) -> Mapping[str, str]:
    """The name of a resize rule → the options that give it: what an export would use, the whole photo, the centre."""
    if given.keys() & {"resize", "short_side", "resize_size"}:
        return {own.resize: ""}
    if own.resize == "crop":
        return {"crop": "", "squeeze": "--resize squeeze"}
    return {own.resize: "", "crop": f"--crop {round(max(own.height, own.width) / CROP)}"}


def _candidate(own: Preprocessing, name: str, options: str, resize: str, resize_options: str) -> Candidate:
    text = f"{options} {resize_options}".strip()
    preprocessing = merge_preprocessing(own, parse_preprocessing(text.split()))
    return Candidate(name, resize, text, preprocessing, preprocessing == own)
