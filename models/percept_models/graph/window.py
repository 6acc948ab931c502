"""Sliding windows: kernel size, stride, dilation and padding of a convolution or pooling node."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import NodeProto

from percept_models.graph.reader import Graph, Shape, attributes


@dataclass(frozen=True)
class Window:
    """A sliding window along the spatial axes, with explicit padding."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]

    @property
    def span(self) -> tuple[int, ...]:
        """The distance from the first tap to the last, d(k - 1), per axis."""
        return tuple(d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True))


def read_window(node: NodeProto, graph: Graph) -> Window:
    """Read the window of a convolution or pooling; automatic padding becomes explicit.

    Raises `ValueError` where automatic padding needs a size that is not known.
    """
    given = attributes(node)
    weights = graph.shapes.get(node.input[1], ())[2:] if len(node.input) > 1 else ()
    kernel = tuple(int(k) for k in given.get("kernel_shape") or [k or 0 for k in weights])
    stride = tuple(given.get("strides") or [1] * len(kernel))
    dilation = tuple(given.get("dilations") or [1] * len(kernel))
    pads = tuple(given.get("pads") or [0] * (2 * len(kernel)))
    mode = given.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        sizes = graph.shapes[node.input[0]][2:]
        pads = _same_padding(sizes, kernel, stride, dilation, lower=mode == "SAME_LOWER")
    return Window(kernel, stride, dilation, pads[: len(kernel)], pads[len(kernel) :])


def _same_padding(
    sizes: Shape, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], lower: bool
) -> tuple[int, ...]:
    """Return the padding that gives ceil(size / stride) outputs; an odd cell goes to the end unless `lower`."""
    small, large = [], []
    for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        if n is None:
            raise ValueError("automatic padding of an input whose size is not known")
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        small.append(total // 2)
        large.append(total - total // 2)
    return tuple(large + small if lower else small + large)
