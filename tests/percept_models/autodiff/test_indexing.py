"""Uses of indexing operators that have no rule; the others are in `cases.py`."""

import pytest

from percept_models.autodiff.errors import UnsupportedOperator
from percept_models.autodiff.tail import build_tail
from percept_models.graph.reader import Graph
from tests.percept_models.autodiff.cases import X, ints
from tests.percept_models.onnx_models import operator_model


def test_reflection_padding_is_rejected_by_name() -> None:
    model = operator_model("Pad", (X, ints(0, 0, 1, 1, 0, 0, 1, 1)), {"mode": "reflect"})
    with pytest.raises(UnsupportedOperator, match="Pad"):
        build_tail(Graph(model), "x")
