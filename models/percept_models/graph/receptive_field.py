"""The receptive field, stride and dilation of every feature map, read from the ONNX graph.

In comes a graph; out comes a `Field` along (y, x) for every tensor that still has these two axes, at any position. The
field is the theoretical one: it holds every pixel that can have an influence. `field_rules.py` has the operators,
`field.py` the arithmetic.
"""

from math import inf

from onnx import NodeProto

from percept_models.graph.field import Axis, Field, merge
from percept_models.graph.field_rules import ELEMENTWISE, FIELD_RULES, SYMMETRIC, Edge, elementwise
from percept_models.graph.reader import Graph, Shape

SIZES = frozenset({"Shape", "Size"})  # their outputs do not depend on pixel values


def receptive_fields(graph: Graph) -> dict[str, Field]:
    """Return the field of every tensor that depends on the graph's image and has the axes (y, x).

    Behind an operator that mixes these axes in an unknown way the field is unknown, and the tensor is left out; but
    if it has four axes, the last two are taken for (y, x), with cells spread evenly over the image and unbounded
    fields.
    """
    images = image_names(graph)
    found: dict[str, Field | None] = {name: _image_field(graph.shapes.get(name, ())) for name in images}
    for node in graph.nodes:
        fields = [_propagate(node, graph, name, found[name]) for name in node.input if name in found]
        if fields and node.op_type not in SIZES:
            found |= dict.fromkeys(filter(None, node.output), merge(fields))
    unknown = [name for name, field in found.items() if field is None]
    found |= {name: _evenly_spread(graph, images[0], name) for name in unknown}
    return {name: field for name, field in found.items() if field is not None}


def image_names(graph: Graph) -> list[str]:
    """Return the graph's inputs without its weights."""
    return [value.name for value in graph.model.graph.input if value.name not in graph.constants]


def image_size(graph: Graph) -> tuple[int, int]:
    """Return the height and width of the graph's image."""
    shape = graph.shapes[image_names(graph)[0]]
    pixel = _image_field(shape)
    return shape[pixel.y.dim] or 1, shape[pixel.x.dim] or 1


def _image_field(shape: Shape) -> Field:
    """Return the axes of an image: pixels [N,H,W,C] with C of 1, 3 or 4, or else [N,C,H,W]."""
    channels_last = len(shape) == 4 and shape[-1] in (1, 3, 4) and shape[1] not in (1, 3, 4)
    return Field(Axis(dim=-3), Axis(dim=-2)) if channels_last else Field()


def _evenly_spread(graph: Graph, image: str, name: str) -> Field | None:
    """Return the field of a map [N,C,h,w] if only its size is known; None for other shapes."""
    shape = graph.shapes.get(name, ())
    if len(shape) != 4 or len(graph.shapes.get(image, ())) != 4:
        return None
    height, width = image_size(graph)
    return Field(
        Axis(-inf, inf, height / (shape[-2] or 1), dim=-2),
        Axis(-inf, inf, width / (shape[-1] or 1), dim=-1),
    )


def _propagate(node: NodeProto, graph: Graph, source: str, field: Field | None) -> Field | None:
    """Return the field of a node's output through one of its inputs; None where it is unknown."""
    rule = elementwise if node.op_type in ELEMENTWISE else FIELD_RULES.get(node.op_type)
    shapes = [graph.shapes.get(name) for name in (source, node.output[0])]
    if field is None or rule is None or None in shapes:
        return None
    before, after = (shape or () for shape in shapes)
    if source != node.input[0] and rule not in SYMMETRIC:
        return None
    edge = Edge(node, graph, source, before, after)
    try:
        y, x = rule(edge, field.y), rule(edge, field.x)
    except ValueError:
        return None
    return Field(y, x) if y and x else None
