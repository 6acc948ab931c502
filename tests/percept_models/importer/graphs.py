"""Small foreign graphs for the tests of what becomes of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from percept_models.graph.reader import Array, run
from percept_models.importer.network import Foreign


def ints(name: str, *values: int) -> TensorProto:
    """A constant int64 vector."""
    return numpy_helper.from_array(np.array(values, np.int64), name)


def floats(name: str, *shape: int, seed: int = 0) -> TensorProto:
    """Constant random numbers."""
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def conv(x: str, y: str, w: str = "w", **attributes: Any) -> NodeProto:
    """A convolution of size 3 that keeps height and width."""
    return helper.make_node("Conv", [x, w], [y], pads=[1, 1, 1, 1], **attributes)


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """A node; names of tensors are separated by spaces, `-` is one that is left out."""
    names = [["" if name == "-" else name for name in text.split()] for text in (inputs, outputs)]
    return helper.make_node(operator, *names, **attributes)


Shape = Sequence[int | str | None]


def written(
    folder: Path,
    nodes: Sequence[NodeProto],
    weights: Sequence[TensorProto] = (),
    image: Shape = ("N", 3, 8, 6),
    outputs: Sequence[str] = ("y",),
    opset: int = 13,
    **more: Any,
) -> Path:
    """A file with one input `x` and, as every classifier here, the weights `w` [4,3,3,3]."""
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


POOL = [node("GlobalAveragePool", "c", "p"), node("Flatten", "p", "y")]


def logits_of(foreign: Foreign, count: int = 3) -> Array:
    """The logits of random pictures."""
    shape = [d.dim_value for d in foreign.model.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = np.random.default_rng(1).uniform(-1, 1, (count, *shape)).astype(np.float32)
    return run(foreign.model, {"image": x})["logits"]


def operators(foreign: Foreign) -> list[str]:
    """The operators of a network, in order."""
    return [node.op_type for node in foreign.model.graph.node]


def pooled(x: str) -> list[NodeProto]:
    """A feature map to the output."""
    return [node("GlobalAveragePool", x, "p"), node("Flatten", "p", "y")]
