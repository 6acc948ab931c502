"""Write small ONNX files as other exporters would, for the tests of the importer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from percept_models.graph.execution import run
from percept_models.graph.reader import Array
from percept_models.importer.network import ImportedNetwork

Shape = Sequence[int | str | None]


def ints(name: str, *values: int) -> TensorProto:
    """A constant int64 vector."""
    return numpy_helper.from_array(np.array(values, np.int64), name)


def floats(name: str, *shape: int, seed: int = 0) -> TensorProto:
    """A constant of random float32 numbers."""
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """A node; its tensors are separated by spaces, and `-` is one that is left out."""
    names, results = (["" if name == "-" else name for name in text.split()] for text in (inputs, outputs))
    return helper.make_node(operator, names, results, **attributes)


def conv(x: str, y: str, w: str = "w", **attributes: Any) -> NodeProto:
    """A 3x3 convolution that keeps height and width."""
    return helper.make_node("Conv", [x, w], [y], pads=[1, 1, 1, 1], **attributes)


def pool_and_flatten(x: str) -> list[NodeProto]:
    """Global average pooling of a feature map to the output `y` [N,K]."""
    return [node("GlobalAveragePool", x, "p"), node("Flatten", "p", "y")]


def write_file(
    folder: Path,
    nodes: Sequence[NodeProto],
    weights: Sequence[TensorProto] = (),
    image: Shape = ("N", 3, 8, 6),
    outputs: Sequence[str] = ("y",),
    opset: int = 13,
    **more: Any,
) -> Path:
    """Write `net.onnx` with one input `x` and the weights `w` [4,3,3,3], besides those given."""
    x = helper.make_tensor_value_info("x", more.pop("kind", TensorProto.FLOAT), image)
    graph = helper.make_graph(
        nodes,
        "test",
        [x, *more.pop("inputs", ())],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [floats("w", 4, 3, 3, 3), *weights],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in more.pop("domains", ()))]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8, **more)
    file = folder / "net.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def write_classifier(folder: Path, *nodes: NodeProto, **more: Any) -> Path:
    """Write a convolution `c` [N,4,8,6] with these nodes after it, by default pooling to the output `y` [N,4]."""
    return write_file(folder, [conv("x", "c"), *(nodes or pool_and_flatten("c"))], **more)


def random_logits(network: ImportedNetwork, count: int = 3) -> Array:
    """The logits of random images."""
    shape = [d.dim_value for d in network.model.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = np.random.default_rng(1).uniform(-1, 1, (count, *shape)).astype(np.float32)
    return run(network.model, {"image": x})["logits"]


def operators(network: ImportedNetwork) -> list[str]:
    """The operators of a network, in order."""
    return [node.op_type for node in network.model.graph.node]
