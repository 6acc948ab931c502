"""Pooling in ceil mode whose last window would begin in the padding at the end.

PyTorch and ONNX Runtime skip such a window; ONNX's shape inference counts it, so every shape behind it is wrong. An
onnx-ir model is changed in place: the pooling gets the padding with which floor mode has the same windows.
"""

from collections.abc import Sequence

import onnx_ir as ir

POOLINGS = ("MaxPool", "AveragePool", "LpPool")


def skip_last_windows(model: ir.Model) -> None:
    """Write every pooling that skips its last window in floor mode, where the sizes of its input are known."""
    for node in model.graph.all_nodes():
        if node.op_type in POOLINGS and _integers(node, "ceil_mode", [0]) == [1]:
            pads = _floor_mode_pads(node)
            if pads is not None:
                node.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 0)
                node.attributes["pads"] = ir.AttrInt64s("pads", pads)


def _floor_mode_pads(node: ir.Node) -> list[int] | None:
    """The padding in floor mode; None where no window is skipped, or where no padding gives the same values."""
    kernel = _integers(node, "kernel_shape", [])
    ones = [1] * len(kernel)
    pads = _integers(node, "pads", [0] * 2 * len(kernel))
    begins, ends = pads[: len(kernel)], pads[len(kernel) :]
    strides, dilations = _integers(node, "strides", ones), _integers(node, "dilations", ones)
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    sizes = [size for size in shape[2:] if isinstance(size, int)] if shape is not None else []
    automatic = "auto_pad" in node.attributes and node.attributes["auto_pad"].as_string() != "NOTSET"
    if len(sizes) != len(kernel) or automatic:
        return None
    axes = list(zip(sizes, kernel, strides, dilations, begins, ends, strict=True))
    if not any(_skips_window(*axis) for axis in axes):
        return None
    needed = [_needed_padding(*axis) for axis in axes]
    counts_padding = _integers(node, "count_include_pad", [0]) == [1]
    if any(end >= k or (counts_padding and end > given) for end, k, given in zip(needed, kernel, ends, strict=True)):
        return None
    return [*begins, *needed]


def _skips_window(n: int, k: int, s: int, d: int, begin: int, end: int) -> bool:
    return (_windows(n, k, s, d, begin, end) - 1) * s >= n + begin


def _needed_padding(n: int, k: int, s: int, d: int, begin: int, end: int) -> int:
    """The padding at the end of an axis with which the last window that is not skipped is whole."""
    count = _windows(n, k, s, d, begin, end) - _skips_window(n, k, s, d, begin, end)
    return max((count - 1) * s + d * (k - 1) + 1 - n - begin, 0)


def _windows(n: int, k: int, s: int, d: int, begin: int, end: int) -> int:
    """The number of windows in ceil mode as ONNX counts them."""
    return -(-(n + begin + end - d * (k - 1) - 1) // s) + 1


def _integers(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    attribute = node.attributes.get(name)
    if attribute is None:
        return list(default)
    return [attribute.as_int()] if attribute.type == ir.AttributeType.INT else list(attribute.as_ints())
