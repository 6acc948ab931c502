"""The rule of GridSample: a map is read at points that lie between its cells.

Letters: x [N,C,H,W] is the map and p [N,h,w,2] holds the points as (x, y) from -1 to 1; y is [N,C,h,w]. (u, v) are the
points in cells: u = p_x * W / 2 + (W - 1) / 2, or p_x * (W - 1) / 2 + (W - 1) / 2 with `align_corners`; v alike.
Jaderberg et al. 2015, arXiv:1506.02025, equations 4 to 7. The points are handled in one axis of T = h * w.
"""

from collections.abc import Sequence
from typing import NamedTuple

from onnx import TensorProto, helper

from percept_models.autodiff.context import Context, Cotangents, reshape_like, zeros_like


class Line(NamedTuple):
    """A row or column beside each point: its position, its weight max(0, 1 - |v - i|), and the derivative of that by p.

    All are [N,1,T] or broadcast to it. Outside of the map the position is that of the border, weight and slope are 0.
    The slope is None where the nearest line is taken.
    """

    position: str
    weight: str
    slope: str | None


class Corner(NamedTuple):
    """A cell beside each point: its row, its column, and its position in the flattened map, int64 [N,C,T]."""

    row: Line
    column: Line
    position: str


def grid_sample(c: Context, g: str) -> Cotangents:
    """`y = sum of x_ij * w_i * w_j over the cells ij beside a point, or x_ij of the nearest cell`:

    dx = zeros with g * w_i * w_j added at the cells; dp_x = the sum of g * x_ij * w_i * dw_j/dp_x, and dp_y alike.
    """
    mode, padding, rank = c.attribute("mode", "bilinear"), c.attribute("padding_mode", "zeros"), len(c.shape(c.x()))
    if mode not in ("bilinear", "linear", "nearest") or padding == "reflection" or rank != 4:
        raise c.unsupported(f"{mode} sampling with {padding} around a map of {rank - 2} axes has no rule")
    channels, height, width = c.sizes(c.x(), [1, 2, 3])
    flat = c.op.Reshape(g, c.ints(0, channels, -1))
    rows, columns = _lines(c, 1, height), _lines(c, 0, width)
    corners = [Corner(row, column, _flat_index(c, row, column, width, flat)) for row in rows for column in columns]
    return [
        _map_gradient(c, flat, corners) if 0 in c.needs_grad else None,
        _grid_gradient(c, flat, corners) if 1 in c.needs_grad and mode != "nearest" else None,
    ]


def _lines(c: Context, coordinate: int, size: int) -> list[Line]:
    """Return the rows (coordinate 1) or columns (coordinate 0) beside each point."""
    scale = (size - 1 if c.attribute("align_corners", 0) else size) / 2
    p = c.op.Reshape(c.op.Gather(c.x(1), c.ints(coordinate), axis=3), c.ints(0, 1, -1))
    v, slope = c.op.Add(c.op.Mul(p, c.constant(scale)), c.constant((size - 1) / 2)), c.constant(scale)
    if c.attribute("padding_mode", "zeros") == "border":
        slope = c.op.Mul(_is_inside(c, v, size), slope)
        v = _clip(c, v, size)
    if c.attribute("mode", "bilinear") == "nearest":
        nearest = c.op.Round(v)
        return [Line(_clip(c, nearest, size), _is_inside(c, nearest, size), None)]
    low = c.op.Floor(v)
    high = c.op.Add(low, c.constant(1))
    lines = ((low, c.op.Sub(high, v), c.op.Neg(slope)), (high, c.op.Sub(v, low), slope))
    return [
        Line(_clip(c, i, size), c.op.Mul(weight, inside), c.op.Mul(change, inside))
        for i, weight, change in lines
        for inside in [_is_inside(c, i, size)]
    ]


def _clip(c: Context, v: str, size: int) -> str:
    return c.op.Clip(v, c.constant(0), c.constant(size - 1))


def _is_inside(c: Context, v: str, size: int) -> str:
    """[0 <= v <= size - 1], as 0 or 1."""
    dtype = helper.np_dtype_to_tensor_dtype(c.graph.dtype(c.x()))
    return c.op.Cast(c.op.Equal(v, _clip(c, v, size)), to=dtype)


def _flat_index(c: Context, row: Line, column: Line, width: int, like: str) -> str:
    index = c.op.Add(c.op.Mul(row.position, c.constant(width)), column.position)
    return c.op.Expand(c.op.Cast(index, to=TensorProto.INT64), c.op.Shape(like))


def _map_gradient(c: Context, flat: str, corners: Sequence[Corner]) -> str:
    updates = [c.op.Mul(flat, c.op.Mul(corner.row.weight, corner.column.weight)) for corner in corners]
    zeros = c.op.Reshape(zeros_like(c, c.x()), c.ints(0, 0, -1))
    indices = c.op.Concat(*(corner.position for corner in corners), axis=2)
    dx = c.op.ScatterElements(zeros, indices, c.op.Concat(*updates, axis=2), axis=2, reduction="add")
    return reshape_like(c, dx, c.x())


def _grid_gradient(c: Context, flat: str, corners: Sequence[Corner]) -> str:
    cells, columns, rows = c.op.Reshape(c.x(), c.ints(0, 0, -1)), [], []
    for row, column, index in corners:
        value = c.op.ReduceSum(c.op.Mul(flat, c.op.GatherElements(cells, index, axis=2)), c.ints(1), keepdims=1)
        columns.append(c.op.Mul(value, c.op.Mul(row.weight, column.slope or "")))
        rows.append(c.op.Mul(value, c.op.Mul(row.slope or "", column.weight)))
    both = c.op.Concat(c.op.Sum(*columns), c.op.Sum(*rows), axis=1)
    return reshape_like(c, c.op.Transpose(both, perm=[0, 2, 1]), c.x(1))
