"""The names of layers: those of torch modules as they are, those of ONNX tensors so that a reader understands them.

A tensor of a file gets the path of the module that computes it, where the file has one, or keeps its name. A name that
is only an operator and a number, such as `clip_162`, becomes the stage and size of the map:
`stage3_56x56`. The old names remain as aliases.
"""

import re
from collections.abc import Mapping

from percept_models.graph.layout import Layout
from percept_models.graph.reader import Graph
from percept_models.sources.trunk import RESERVED

NUMBERED = re.compile(r"(?:node_)?([A-Za-z]+?)(?:_output_?|_+)\d+|([A-Za-z]+)")
TENSORS = frozenset({"convolution", "getitem", "input", "node", "output", "t", "tensor", "val", "value", "x"})


def name_layers(graph: Graph, layouts: Mapping[str, Layout], module_paths: Mapping[str, str]) -> dict[str, str]:
    """Return the new names of the tensors of a file that get one: those of `layouts`, in the order of stages."""
    operators = {node.op_type.lower() for node in graph.nodes} | TENSORS
    names: dict[str, str] = {}
    taken = {name.lower() for name in (*graph.shapes, *graph.producer, *RESERVED)}
    for stage, (tensor, layout) in enumerate(layouts.items(), 1):
        path = module_paths.get(tensor)
        if not (path or _is_opaque(tensor, operators)):
            continue
        stage_name = f"stage{stage}_{layout.height}x{layout.width}"
        name = next((name for name in (path, stage_name) if name and name.lower() not in taken), None)
        if name:
            names[tensor] = name
            taken.add(name.lower())
    return names


def _is_opaque(tensor: str, operators: set[str]) -> bool:
    """Whether a name is only that of an operator, with or without a number."""
    match = NUMBERED.fullmatch(tensor)
    return match is not None and (match[1] or match[2]).lower() in operators
