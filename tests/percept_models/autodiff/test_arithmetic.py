"""Elementwise rules with broadcasting; single cases are in `cases.py`."""

from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.percept_models.autodiff.cases import Case, check_gradient, noise

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
}


@settings(max_examples=60, derandomize=True)
@given(
    st.sampled_from(sorted(FUNCTIONS)),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.integers(1, 4),
    st.booleans(),
)
def test_operands_broadcast_along_any_axes(operator: str, ones: list[bool], rank: int, swap: bool) -> None:
    """Either operand may have size 1 along any axis, or fewer axes."""
    function = FUNCTIONS[operator]
    full = (2, 3, 4, 5)
    small = tuple(1 if one else n for one, n in zip([False, *ones], full, strict=True))
    other = full[4 - rank :] if rank < 4 else (1, *full[1:])
    x, c = noise(*(small if swap else full), low=1, high=2), noise(*other, low=1, high=2, seed=4)
    check_gradient(operator, Case(function, (x, c)))
