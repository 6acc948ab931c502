"""Filters as pictures: the kernels of a network's first convolution, and tiles laid into the PNG of a `Drawing`."""

import io
import math
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from percept.bundle.manifest import IMAGE, Drawing, DrawingKind, Preprocessing
from percept_models.graph.reader import Array, Graph

KINDS: tuple[DrawingKind, ...] = get_args(DrawingKind)
MOST = 256  # kernels that are drawn


def kernels(graph: Graph, how: Preprocessing) -> Array | None:
    """The weights [M,3,kh,kw] of the first convolution behind the image as tiles uint8 [M,kh,kw,3] RGB, at most `MOST`.

    128 is zero; each kernel is scaled by its own greatest weight. None where there is no convolution of three channels
    with stored weights.
    """
    behind = graph.downstream(IMAGE) if IMAGE in graph.shapes else set()
    first = next((n for n in graph.nodes if n.op_type == "Conv" and not behind.isdisjoint(n.input)), None)
    W = None if first is None else graph.value(first.input[1])
    if W is None or W.ndim != 4 or W.shape[1] != 3:
        return None
    W = (W[:, ::-1] if how.channels == "BGR" else W)[:MOST].astype(np.float64)
    scaled = W / np.maximum(np.abs(W).max((1, 2, 3), keepdims=True), 1e-30)
    return np.asarray((128 + 127 * scaled).round().astype(np.uint8).transpose(0, 2, 3, 1))


def draw(
    folder: Path,
    kind: DrawingKind,
    tiles: Array,
    layer: str | None = None,
    channels: Sequence[int] = (),
    **numbers: Any,
) -> Drawing:
    """Write tiles uint8 [n,h,w,3] as a PNG into a folder, nearly square, and describe it.

    The name holds a part of its hash: other pictures get another name, so that no file of a bundle ever changes.
    """
    n, height, width, _ = tiles.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    places = np.zeros((rows * columns, height, width, 3), np.uint8)
    places[:n] = tiles
    mosaic = places.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    stream = io.BytesIO()
    picture = Image.fromarray(mosaic.reshape(rows * height, columns * width, 3))
    picture.save(stream, "PNG", optimize=True)
    data = stream.getvalue()
    file = ".".join(filter(None, [kind, layer, sha256(data).hexdigest()[:8], "png"]))
    (folder / file).write_bytes(data)
    return Drawing(kind=kind, layer=layer, file=file, tile=(height, width), channels=tuple(channels), **numbers)
