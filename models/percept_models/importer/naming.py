"""Tensors of a foreign graph get names that a manifest, a URL and a file can carry.

"/layer1/layer1.0/Relu_1_output_0" becomes "layer1.layer1.0.Relu_1", "activation_138/Relu:0" "activation_138.Relu" and
the output "377" of a Relu "relu_377". The same graph gets the same names, and no two differ in case only.
"""

import re
from collections.abc import Iterable

from onnx import ModelProto

from percept_models.sources.trunk import PIXELS
from percept_models.sources.trunk import RESERVED as TAKEN

STEPS = ("flipped", "float", "centred", "scaled", "last")  # from pixels to what a network takes; the last one if NHWC
FLIPPED, FLOATS, CENTRED, SCALED, LAST = (f"{PIXELS}.{step}" for step in STEPS)
ORDER, MEAN, STD = (f"{PIXELS}.{constant}" for constant in ("order", "mean", "std"))
RESERVED = TAKEN | {FLIPPED, FLOATS, CENTRED, SCALED, LAST, ORDER, MEAN, STD}
LENGTH = 120  # of the 128 that the manifest allows: the rest is for making a name unique


def rename(model: ModelProto, fixed: dict[str, str]) -> None:
    """Rename every tensor of the main graph in place; `fixed` says what some must be called."""
    graph = model.graph
    makers = {t.name: "weight" for t in graph.initializer}
    makers |= {name: node.op_type for node in graph.node for name in node.output if name}
    taken = {name.lower() for name in [*RESERVED, *fixed.values()]}
    names = {"": ""} | fixed
    for name, maker in makers.items():
        if name not in names:
            names[name] = _unique(readable(name, maker), taken)
    for node in graph.node:
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for tensor in [*graph.initializer, *graph.input, *graph.output]:
        tensor.name = names[tensor.name]


def readable(name: str, maker: str) -> str:
    """A name in the letters of a manifest; `maker` is the operator that makes the tensor."""
    plain = re.sub(r"(_output_0|:0)$", "", name)
    plain = re.sub(r"[^A-Za-z0-9._-]+", ".", plain).lstrip("._-").rstrip(".")
    if plain.isdecimal() or not plain:
        plain = f"{maker.lower()}_{plain}".rstrip("_")
    return plain[-LENGTH:].lstrip("._-") or maker.lower()


def _unique(name: str, taken: set[str]) -> str:
    """The name itself, or with the first number behind it that nothing has yet."""
    found = next(n for n in _numbered(name) if n.lower() not in taken)
    taken.add(found.lower())
    return found


def _numbered(name: str) -> Iterable[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1
