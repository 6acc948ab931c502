"""Pooling whose last window is skipped: floor mode with other padding has the shape and values of PyTorch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, shape_inference
from torch import nn

from percept_models.graph.execution import run
from percept_models.graph.pooling import skip_last_windows


def pooling_model(operator: str, size: int, **attributes: Any) -> ModelProto:
    node = helper.make_node(operator, ["x"], ["y"], "pool", **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, size, 9])
    graph = helper.make_graph([node], "g", [x], [helper.make_empty_tensor_value_info("y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def rewrite(model: ModelProto) -> ModelProto:
    changed = ir.from_proto(model)
    skip_last_windows(changed)
    return ir.to_proto(changed)


@pytest.mark.parametrize("size", range(7, 13))
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 3, 1), (2, 3, 1), (1, 2, 0), (3, 4, 1), (3, 2, 1), (2, 2, 0)]
)
@pytest.mark.parametrize(
    ("operator", "create", "attributes"),
    [
        ("MaxPool", nn.MaxPool2d, {}),
        ("AveragePool", partial(nn.AvgPool2d, count_include_pad=False), {}),
        ("AveragePool", nn.AvgPool2d, {"count_include_pad": 1}),
    ],
    ids=["max", "average", "average of the padding too"],
)
def test_pooling_keeps_the_windows_of_torch(
    size: int, kernel: int, stride: int, padding: int, operator: str, create: Callable[..., nn.Module], attributes: dict
) -> None:
    x = torch.rand(1, 2, size, 9, generator=torch.Generator().manual_seed(size)) - 0.5
    expected = create(kernel, stride, padding, ceil_mode=True)(x).numpy()
    model = pooling_model(
        operator,
        size,
        kernel_shape=[kernel] * 2,
        strides=[stride] * 2,
        pads=[padding] * 4,
        ceil_mode=1,
        auto_pad="NOTSET",
        **attributes,
    )
    changed = rewrite(model)
    given = helper.get_node_attr_value(changed.graph.node[0], "ceil_mode")
    if given == 0 or operator == "MaxPool":
        np.testing.assert_allclose(run(changed, {"x": x.numpy()})["y"], expected, rtol=0, atol=1e-6)
        inferred = shape_inference.infer_shapes(changed).graph.output[0].type.tensor_type.shape
        assert [dim.dim_value for dim in inferred.dim] == list(expected.shape)


def test_pooling_that_skips_no_window_is_left_alone() -> None:
    model = pooling_model("MaxPool", 8, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    assert rewrite(model) == ir.to_proto(ir.from_proto(model))


def test_pooling_of_unknown_sizes_is_left_alone() -> None:
    model = pooling_model("MaxPool", 8, kernel_shape=[3, 3], strides=[3, 3], pads=[1] * 4, ceil_mode=1)
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "W"
    assert rewrite(model) == ir.to_proto(ir.from_proto(model))
