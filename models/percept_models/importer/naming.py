"""Rename the tensors of an imported graph so that a manifest, a URL and a file name can carry the names.

"/layer1/layer1.0/Relu_1_output_0" becomes "layer1.layer1.0.Relu_1", "activation_138/Relu:0" "activation_138.Relu" and
the output "377" of a Relu "relu_377". The same graph always gets the same names, and no two names differ in case only.
"""

import re
from collections.abc import Iterable

from onnx import ModelProto

from percept_models.sources.trunk import PIXELS
from percept_models.sources.trunk import RESERVED as RESERVED_IN_TRUNK

STEPS = ("flipped", "float", "centred", "scaled", "last")  # of the normalization; the last is for channels last (NHWC)
FLIPPED, FLOATS, CENTRED, SCALED, LAST = (f"{PIXELS}.{step}" for step in STEPS)
ORDER, MEAN, STD = (f"{PIXELS}.{constant}" for constant in ("order", "mean", "std"))
RESERVED = RESERVED_IN_TRUNK | {FLIPPED, FLOATS, CENTRED, SCALED, LAST, ORDER, MEAN, STD}
MAX_LENGTH = 120  # of the 128 that the manifest allows: the rest is for making a name unique


def assign_readable_names(model: ModelProto, required: dict[str, str]) -> dict[str, str]:
    """Rename every tensor of the main graph in place; `required` gives the new names of some of them.

    Returns the old name of each tensor that a node computes.
    """
    graph = model.graph
    operators = {t.name: "weight" for t in graph.initializer}
    operators |= {name: node.op_type for node in graph.node for name in node.output if name}
    taken = {name.lower() for name in [*RESERVED, *required.values()]}
    computed = {name for node in graph.node for name in node.output if name}
    names = {"": ""} | required
    for name, operator in operators.items():
        if name not in names:
            names[name] = _unique(readable_name(name, operator), taken)
    for node in graph.node:
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for tensor in [*graph.initializer, *graph.input, *graph.output]:
        tensor.name = names[tensor.name]
    return {new: old for old, new in names.items() if old in computed}


def readable_name(name: str, operator: str) -> str:
    """Return a name in the characters that a manifest allows; `operator` computes the tensor."""
    plain = re.sub(r"(_output_0|:0)$", "", name)
    plain = re.sub(r"[^A-Za-z0-9._-]+", ".", plain).lstrip("._-").rstrip(".")
    if plain.isdecimal() or not plain:
        plain = f"{operator.lower()}_{plain}".rstrip("_")
    return plain[-MAX_LENGTH:].lstrip("._-") or operator.lower()


def _unique(name: str, taken: set[str]) -> str:
    """Return the name, or the name with the first number that makes it unique; add it to `taken`."""
    found = next(n for n in _numbered(name) if n.lower() not in taken)
    taken.add(found.lower())
    return found


def _numbered(name: str) -> Iterable[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1
