"""Uses of operators that have no rule; the others are in `cases.py`."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from percept_models.autodiff.errors import UnsupportedOperator
from percept_models.autodiff.tail import build_tail
from percept_models.graph.reader import Array, Graph
from tests.percept_models.autodiff.cases import INDICES, UPDATES, X, ints, noise
from tests.percept_models.onnx_models import operator_model

Use = tuple[str, Sequence[Array | None], Mapping[str, object]]
GRID = noise(2, 3, 7, 2)

UNSUPPORTED: dict[str, Use] = {
    "reflection of more cells than there are": ("Pad", (X, ints(0, 0, 6, 0, 0, 0, 0, 0)), {"mode": "reflect"}),
    "negative padding on one side": ("Pad", (X, ints(0, 0, 2, 0, 0, 0, -1, 0)), {"mode": "edge"}),
    "padding of the batch": ("Pad", (X, ints(1, 0, 0, 0, 0, 0, 0, 0)), {"mode": "edge"}),
    "bicubic sampling": ("GridSample", (X, GRID), {"mode": "bicubic"}),
    "reflected sampling": ("GridSample", (X, GRID), {"padding_mode": "reflection"}),
    "diagonal": ("Einsum", (X[:, :, :5],), {"equation": "ncii->nci"}),
    "ellipsis": ("Einsum", (X,), {"equation": "n...->n"}),
    "broadcast letter": ("Einsum", (X, noise(1, 3)), {"equation": "nchw,cd->ndhw"}),
    "scattered products": ("ScatterElements", (X, INDICES, UPDATES), {"axis": 2, "reduction": "mul"}),
}


@pytest.mark.parametrize("use", UNSUPPORTED)
def test_use_without_rule_is_rejected_by_name(use: str) -> None:
    operator, inputs, attributes = UNSUPPORTED[use]
    with pytest.raises(UnsupportedOperator, match=f"the operator {operator}: "):
        build_tail(Graph(operator_model(operator, inputs, attributes)), "x")


def test_grid_of_nearest_cells_has_no_gradient() -> None:
    """The cell that is nearest to a point changes in steps."""
    model = operator_model("GridSample", (X, np.clip(GRID, -1, 1)), {"mode": "nearest"}, at=1)
    with pytest.raises(UnsupportedOperator, match="GridSample: its result is a step function"):
        build_tail(Graph(model), "x")
