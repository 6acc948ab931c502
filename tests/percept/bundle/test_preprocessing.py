"""The preprocessing in a manifest: the channels of the pixels, with a mean and a standard deviation for each."""

import pytest
from pydantic import ValidationError

from percept.bundle.preprocessing import Channels, Preprocessing


@pytest.mark.parametrize(("channels", "count"), [("GRAY", 1), ("RGB", 3), ("BGR", 3), ("RGBA", 4)])
def test_pixels_have_the_channels_of_the_network(channels: Channels, count: int) -> None:
    rule = Preprocessing.model_validate({"height": 4, "width": 6, "channels": channels})
    assert rule.shape == (4, 6, count)
    assert (rule.mean, rule.std) == ((0.0,) * count, (1.0,) * count)
    assert Preprocessing.model_validate_json(rule.model_dump_json()) == rule


def test_blank_pixel_is_in_the_order_of_the_pixels() -> None:
    numbers = {"height": 4, "width": 6, "mean": (1.0, 2.0, 3.0)}
    assert Preprocessing(**numbers).blank == (1.0, 2.0, 3.0)
    assert Preprocessing(**numbers, channels="BGR").blank == (3.0, 2.0, 1.0)
    assert Preprocessing(height=4, width=6, channels="GRAY", mean=(7.0,)).blank == (7.0,)


@pytest.mark.parametrize("channels", ["GRAY", "RGBA"])
def test_mean_of_another_number_of_channels_is_rejected(channels: Channels) -> None:
    with pytest.raises(ValidationError, match=f"{channels} has . channels?: mean and std need one number for each"):
        Preprocessing(height=4, width=6, channels=channels, mean=(1.0, 2.0, 3.0))


def test_unknown_channels_are_named_in_the_error() -> None:
    with pytest.raises(ValidationError, match=r"channels\n  Input should be 'GRAY', 'RGB', 'BGR' or 'RGBA'"):
        Preprocessing.model_validate({"height": 4, "width": 6, "channels": "CMYK"})
