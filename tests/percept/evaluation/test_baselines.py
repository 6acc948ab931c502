"""The baselines: maps of the right shape that do not depend on the network."""

import numpy as np
import pytest

from percept.evaluation.baselines import BASELINES


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_depend_on_the_photo_number_alone(name: str) -> None:
    one, again, other = (BASELINES[name](number, (64, 48)) for number in (1, 1, 2))
    assert one.dtype == np.float32
    assert one.shape == (64, 48)
    assert one.max() == 1
    assert one.min() >= 0
    np.testing.assert_array_equal(one, again)
    assert (name == "centre") == np.array_equal(one, other)


def test_centre_baseline_is_symmetric() -> None:
    heat = BASELINES["centre"](0, (33, 21))
    assert heat.argmax() == 16 * 21 + 10
    np.testing.assert_allclose(heat, heat[::-1, ::-1], rtol=1e-5)
    assert heat[0, 10] == pytest.approx(np.exp(-2), rel=1e-5)
