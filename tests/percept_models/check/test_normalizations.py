"""The likely preprocessings: each row of the table is what its options give, and the user's options stay."""

import numpy as np
import pytest

from percept.bundle.preprocessing import Channels, Preprocessing
from percept_models.check.normalizations import NORMALIZATIONS, list_candidates, normalize
from percept_models.export.options import parse_preprocessing
from percept_models.sources.preprocessing import merge_preprocessing

WHOLE = Preprocessing(height=224, width=224)
# A pixel of (255, 0, 127.5) as the network gets it: in its order of channels.
PIXELS = {
    "0..1, ImageNet": ((1 - 0.485) / 0.229, -0.456 / 0.224, (0.5 - 0.406) / 0.225),
    "0..1": (1, 0, 0.5),
    "-1..1": (1, -1, 0),
    "0..255": (255, 0, 127.5),
    "BGR - mean, Caffe": (127.5 - 103.939, -116.779, 255 - 123.68),
}


@pytest.mark.parametrize("name", PIXELS)
def test_normalization_gives_the_values_of_its_name(name: str) -> None:
    preprocessing = merge_preprocessing(WHOLE, parse_preprocessing(NORMALIZATIONS["RGB"][name].split()))
    pixel = np.array([[[255, 0, 127.5]]], np.float32)
    assert normalize(pixel, preprocessing)[:, 0, 0] == pytest.approx(PIXELS[name], rel=1e-5)


def test_every_normalization_of_colours_is_tested() -> None:
    assert PIXELS.keys() == NORMALIZATIONS["RGB"].keys()


@pytest.mark.parametrize("channels", ["GRAY", "RGB", "BGR", "RGBA"])
def test_candidates_are_what_their_options_give(channels: Channels) -> None:
    own = Preprocessing(height=224, width=224, channels=channels)
    candidates = list_candidates(own, {})
    for candidate in candidates:
        assert candidate.preprocessing == merge_preprocessing(own, parse_preprocessing(candidate.options.split()))
    assert [candidate.is_own for candidate in candidates].count(True) == 1
    assert {candidate.resize for candidate in candidates} == {"squeeze", "crop"}
    assert {c.preprocessing.short_side for c in candidates} == {None, 256}


def test_preprocessing_outside_the_table_comes_first() -> None:
    own = merge_preprocessing(WHOLE, {"mean": (1.0,), "std": (2.0,)})
    first = list_candidates(own, {"mean": (1.0,), "std": (2.0,)})[0]
    assert (first.is_own, first.preprocessing, first.options) == (True, own, "")


def test_given_resize_and_channels_are_kept() -> None:
    given = {"resize": "pad", "channels": "BGR"}
    candidates = list_candidates(merge_preprocessing(WHOLE, given), given)
    assert {(c.preprocessing.resize, c.preprocessing.channels) for c in candidates} == {("pad", "BGR")}
    assert len(candidates) == 4


def test_torchvision_candidates_keep_the_resize_of_torchvision() -> None:
    own = Preprocessing(height=224, width=224, resize="crop", resize_size=(256, 256))
    found = {(c.resize, c.preprocessing.resize_size) for c in list_candidates(own, {})}
    assert found == {("crop", (256, 256)), ("squeeze", (224, 224))}


def test_network_that_normalizes_itself_gets_the_pixels() -> None:
    candidates = list_candidates(WHOLE, {}, normalizes=True)
    assert [(one.normalization, one.resize) for one in candidates] == [
        ("by the network", "squeeze"),
        ("by the network", "crop"),
    ]
    assert all(set(one.preprocessing.std) == {1.0} for one in candidates)
