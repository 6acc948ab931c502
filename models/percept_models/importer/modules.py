"""The paths of the modules in an ONNX file that torch exported: which tensor is the output of which module.

torch writes the path of a node's module into the node's metadata, or, before its exporter of 2024, into the node's
name: `/layer1/layer1.0/conv1/Conv`.
"""

import ast
from collections.abc import Sequence

from onnx import ModelProto, NodeProto

SCOPES = "pkg.torch.onnx.name_scopes"  # the paths of all modules around a node, the outermost first, then the operation


def module_outputs(model: ModelProto) -> dict[str, str]:
    """Return the path of the outermost module by the tensor that it returns: the last one that it computes."""
    last: dict[str, str] = {}
    for node in model.graph.node:
        for path in _modules(node):
            last[path] = node.output[0]
    outputs: dict[str, str] = {}
    for path, tensor in sorted(last.items(), key=lambda item: item[0].count(".")):
        outputs.setdefault(tensor, path)
    return outputs


def _modules(node: NodeProto) -> list[str]:
    """Return the paths of the modules around a node."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            return _read_scopes(entry.value)
    if node.name.startswith("/"):
        return _join(node.name.split("/")[1:-1])
    return []


def _read_scopes(text: str) -> list[str]:
    """Return the paths in torch's list of scopes without its ends, the network and the operation."""
    try:
        scopes = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return []
    return [path for path in scopes[1:-1] if isinstance(path, str) and path] if isinstance(scopes, list) else []


def _join(parts: Sequence[str]) -> list[str]:
    """Return the paths that nested names stand for; a module in a list repeats the name of the list."""
    paths: list[str] = []
    for part in parts:
        parent = paths[-1] if paths else ""
        inside = part.removeprefix(f"{parent.rpartition('.')[2]}.") if parent else part
        paths.append(".".join(filter(None, [parent, inside])))
    return paths
