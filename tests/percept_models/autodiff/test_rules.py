"""Every rule against PyTorch's autograd, and against central differences in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from percept_models.autodiff.rules import RULES
from percept_models.autodiff.tail import build_tail
from percept_models.graph.execution import run
from percept_models.graph.reader import Array, Graph
from tests.percept_models.autodiff.cases import CASES, Case, check_gradient

ALL = [(operator, case) for operator, cases in CASES.items() for case in cases]
IDS = [f"{operator}-{i}" for operator, cases in CASES.items() for i, _ in enumerate(cases)]


def test_every_rule_has_cases() -> None:
    assert set(RULES) == set(CASES)


@pytest.mark.parametrize(("operator", "case"), ALL, ids=IDS)
def test_rule_agrees_with_autograd(operator: str, case: Case) -> None:
    check_gradient(operator, case)


# Operators without a float64 kernel in ONNX Runtime. Of a linear one distant points give the exact slope too.
LINEAR = {"AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "MaxUnpool", "Mean", "Resize"}
FLOAT32_ONLY = {"Cast", "Celu", "Erf", "Gelu", "GlobalMaxPool", "GridSample", "HardSigmoid", "HardSwish", "Hardmax"}
FLOAT32_ONLY |= {"InstanceNormalization", "LRN", *LINEAR}
FLOAT32_ONLY |= {"Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Shrink", "Sinh", "Tan"}


@pytest.mark.parametrize(("operator", "case"), ALL, ids=IDS)
def test_rule_agrees_with_central_differences(operator: str, case: Case) -> None:
    """The derivative along a random direction is the slope between two points in float64.

    This is the slope of the same function in PyTorch, and of the model itself where ONNX Runtime has a float64 kernel
    or the operator is linear.
    """
    double = operator not in FLOAT32_ONLY
    tail, _ = build_tail(Graph(case.model(operator, double)), "x")
    given = [torch.as_tensor(np.asarray(c)) for c in case.inputs if c is not None]
    given = [c.double() if c.is_floating_point() else c for c in given]
    rng = np.random.default_rng(2)
    x = given[case.at].numpy()
    direction, seed = rng.uniform(-1, 1, x.shape), rng.uniform(-1, 1, case.torch(*given).shape)
    real = np.float64 if double else np.float32
    seeds = {"seed": seed.astype(np.float64 if operator == "Cast" else real)}

    def onnx_model(x: Array) -> Array:
        return run(tail, seeds | {"activations": x.astype(real)})["logits"].astype(np.float64)

    def pytorch(x: Array) -> Array:
        return case.torch(*given[: case.at], torch.from_numpy(x), *given[case.at + 1 :]).numpy()

    def slope(f: Callable[[Array], Array], step: float) -> float:
        rise = f(x + step * direction) - f(x - step * direction)
        return float((seed * rise).sum() / (2 * step))

    gradients = run(tail, seeds | {"activations": x.astype(real)})["gradients"]
    expected = float((gradients * direction).sum())
    tolerance = 1e-6 if double else 1e-5
    assert slope(pytorch, 1e-6) == pytest.approx(expected, rel=tolerance, abs=tolerance)
    if double or operator in LINEAR:
        assert slope(onnx_model, 1e-6 if double else 1.0) == pytest.approx(expected, rel=tolerance, abs=tolerance)
