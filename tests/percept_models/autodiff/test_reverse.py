"""The backward pass over a graph; whole networks are in `test_tail.py`."""

import pytest

from percept_models.autodiff.errors import UnsupportedOperator
from percept_models.autodiff.tail import build_tail
from percept_models.graph.reader import Graph
from tests.percept_models.autodiff.cases import X
from tests.percept_models.onnx_models import operator_model


def test_operator_without_rule_is_rejected_by_name() -> None:
    with pytest.raises(UnsupportedOperator, match="ReduceProd"):
        build_tail(Graph(operator_model("ReduceProd", (X,), {})), "x")
