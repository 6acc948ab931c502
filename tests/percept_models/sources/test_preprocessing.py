"""The preprocessing that a source states, merged with what the user gives."""

from percept.bundle.preprocessing import Preprocessing
from percept_models.sources.preprocessing import merge_preprocessing


def test_short_side_grows_with_the_size_unless_given() -> None:
    guess = Preprocessing(height=224, width=224, resize="crop", short_side=256)
    assert merge_preprocessing(guess, {"height": 448, "width": 448}).short_side == 512
    assert merge_preprocessing(guess, {"short_side": 300}).short_side == 300
    assert merge_preprocessing(guess, {"resize": "squeeze"}).short_side is None
    assert merge_preprocessing(Preprocessing(height=8, width=9), {"resize": "crop"}).short_side == 9
