"""Convolutions, poolings and resizing of any shape; single cases are in `cases.py`."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percept_models.autodiff.errors import UnsupportedOperator
from percept_models.autodiff.tail import build_tail
from percept_models.graph.execution import run
from percept_models.graph.reader import Array, Graph
from tests.percept_models.autodiff.cases import HALF_PIXEL, X, check_gradient, conv, conv_transpose, noise, pool, resize
from tests.percept_models.onnx_models import operator_model


def pair(data: st.DataObject, low: int, high: int) -> tuple[int, int]:
    """Two integers from low to high."""
    return data.draw(st.integers(low, high)), data.draw(st.integers(low, high))


@settings(max_examples=60, derandomize=True)
@given(st.data())
def test_convolution_of_any_shape(data: st.DataObject) -> None:
    """Kernels, strides, pads, dilations and groups in any combination, also where a rest of the input is uncovered."""
    groups = data.draw(st.sampled_from([1, 2, 4]))
    kernel, dilation, padding, stride = pair(data, 1, 4), pair(data, 1, 3), pair(data, 0, 3), pair(data, 1, 4)
    size = [
        data.draw(st.integers(max(d * (k - 1) + 1 - 2 * p, 1), 12))
        for d, k, p in zip(dilation, kernel, padding, strict=True)
    ]
    x, w = noise(data.draw(st.integers(1, 3)), 4, *size), noise(8, 4 // groups, *kernel)
    check_gradient("Conv", conv(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups))


@settings(max_examples=40, derandomize=True)
@given(st.data())
def test_transposed_convolution_of_any_shape(data: st.DataObject) -> None:
    """The same for transposed convolutions, with output padding."""
    groups = data.draw(st.sampled_from([1, 2]))
    kernel, dilation, stride = pair(data, 1, 4), pair(data, 1, 2), pair(data, 1, 3)
    spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    padding = tuple(data.draw(st.integers(0, span)) for span in spans)
    extra = (data.draw(st.integers(0, stride[0] - 1)), data.draw(st.integers(0, stride[1] - 1)))
    size = [data.draw(st.integers(max(4, span + 1), 8)) for span in spans]  # smaller ones may leave no output
    x, w = noise(2, 4, *size), noise(4, 3, *kernel)
    case = conv_transpose(x, w, extra, stride=stride, padding=padding, dilation=dilation, groups=groups)
    check_gradient("ConvTranspose", case)


@settings(max_examples=60, derandomize=True)
@given(
    st.sampled_from(["max", "avg"]),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 2),
    st.booleans(),
    st.integers(0, 1),
    st.integers(6, 11),
    st.integers(6, 11),
)
def test_pooling_of_any_shape(
    kind: str, size: int, stride: int, pads: int, ceil: bool, extra: int, h: int, w: int
) -> None:
    """Windows, strides, pads, ceil mode, dilation and counted padding in any combination."""
    operator = {"max": "MaxPool", "avg": "AveragePool"}[kind]
    pads = min(pads, size // 2)
    if ceil and any(-(-(n + 2 * pads - (size - 1)) // stride) * stride >= n for n in (h, w)):
        return  # rejected: see test_window_beyond_input_is_rejected
    x = np.random.default_rng(3).permutation(6 * h * w).reshape(2, 3, h, w).astype(np.float32)
    check_gradient(operator, pool(kind, x, size, stride, pads, ceil, extra + (kind == "max")))


def draw_uneven_window(data: st.DataObject, operator: str, opset: int, kernel: tuple[int, int]) -> dict[str, Any]:
    """The attributes of a window as ONNX allows it and PyTorch does not."""
    stride, dilation = pair(data, 1, 3), pair(data, 1, 2)
    window: dict[str, Any] = {"kernel_shape": kernel, "strides": stride}
    if operator != "AveragePool" or opset > 18:
        window["dilations"] = dilation
    if data.draw(st.booleans()):
        window["pads"] = [data.draw(st.integers(0, k - 1)) for k in kernel * 2]
    elif max(dilation) == 1 and max(stride) <= min(kernel):  # ONNX Runtime supports automatic padding of no other
        window["auto_pad"] = data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    if operator != "Conv" and "auto_pad" not in window:
        window["ceil_mode"] = data.draw(st.integers(0, 1))
    if operator == "AveragePool":
        window["count_include_pad"] = data.draw(st.integers(0, 1))
    return window


@settings(max_examples=150, derandomize=True)
@given(st.data())
def test_uneven_window_of_any_shape(data: st.DataObject) -> None:
    """The gradient is the slope of ONNX Runtime's own output, because PyTorch has no such windows.

    Padding differs from side to side or is automatic, also in ceil mode with counted padding; averages are dilated.
    """
    operator = data.draw(st.sampled_from(["Conv", "AveragePool", "MaxPool"]))
    opset = data.draw(st.sampled_from([18, 19]))
    kernel = pair(data, 1, 3)
    window = draw_uneven_window(data, operator, opset, kernel)
    h, w = pair(data, 6, 9)
    x = np.random.default_rng(3).permutation(4 * h * w).reshape(2, 2, h, w).astype(np.float32) / 100
    inputs = (x, noise(3, 2, *kernel)) if operator == "Conv" else (x,)
    graph = Graph(operator_model(operator, inputs, window, opset=opset))
    try:
        tail, _ = build_tail(graph, "x")
    except UnsupportedOperator:
        return  # see test_window_beyond_input_is_rejected
    direction = noise(*x.shape, seed=1)
    seed = noise(2, *(size or 0 for size in graph.shapes["logits"][1:]), seed=2)

    def outputs(step: float) -> dict[str, Array]:
        return run(tail, {"activations": (x + step * direction).astype(np.float32), "seed": seed})

    rise = outputs(1 / 500)["logits"].astype(np.float64) - outputs(-1 / 500)["logits"]
    expected = float((outputs(0)["gradients"] * direction).sum())
    assert float((seed * rise).sum() * 250) == pytest.approx(expected, rel=2e-3, abs=2e-3)


@settings(max_examples=25, derandomize=True)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 17), st.integers(1, 17))
def test_resizing_to_any_size(h: int, w: int, height: int, width: int) -> None:
    """Bilinear, up and down by any ratio."""
    check_gradient("Resize", resize(noise(2, 3, h, w), (height, width), "bilinear", **HALF_PIXEL))


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_window_beyond_input_is_rejected(kind: str) -> None:
    """ONNX's shape inference and ONNX Runtime disagree about the number of cells."""
    case = pool(kind, X, 1, 2, 0, True, 1 if kind == "max" else 0)
    model = operator_model({"max": "MaxPool", "avg": "AveragePool"}[kind], (X,), case.attributes)
    with pytest.raises(UnsupportedOperator, match="beyond the input"):
        build_tail(Graph(model), "x")
