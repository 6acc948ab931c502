"""Filter pictures: the kernels of a network's first convolution, and the PNG files that hold tiles of pictures."""

import io
import math
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from percept.bundle.manifest import IMAGE, FilterKind, FilterPicture
from percept.bundle.preprocessing import Preprocessing
from percept_models.export.file_name import file_stems
from percept_models.graph.reader import Array, Graph

KINDS: tuple[FilterKind, ...] = get_args(FilterKind)
MAX_KERNELS = 256


def first_kernels(graph: Graph, preprocessing: Preprocessing) -> Array | None:
    """The weights [M,C,kh,kw] of the first convolution as tiles uint8 [M,kh,kw,C], at most `MAX_KERNELS`.

    Each kernel is divided by the largest magnitude of its weights; 128 is zero. The weights of an alpha are left out:
    C is 1 or 3. None unless the first convolution after the image takes its channels and has stored weights.
    """
    W = _first_weights(graph)
    if W is None or W.ndim != 4 or W.shape[1] != preprocessing.shape[2]:
        return None
    W = (W[:, ::-1] if preprocessing.channels == "BGR" else W)[:MAX_KERNELS].astype(np.float64)
    scaled = W / np.maximum(np.abs(W).max((1, 2, 3), keepdims=True), 1e-30)
    return np.asarray((128 + 127 * scaled[:, :3]).round().astype(np.uint8).transpose(0, 2, 3, 1))


def write_filter_picture(
    folder: Path,
    kind: FilterKind,
    tiles: Array,
    layer: str | None = None,
    channels: Sequence[int] = (),
    **numbers: Any,
) -> FilterPicture:
    """Write tiles uint8 [n,h,w,C] as one nearly square PNG into a folder, and return its entry for the manifest.

    The file's name contains a part of its hash: another picture gets another name, so no file of a bundle changes.
    """
    data = _encode_mosaic(tiles)
    file = ".".join(
        filter(None, [kind, *file_stems([layer] if layer else []).values(), sha256(data).hexdigest()[:8], "png"])
    )
    (folder / file).write_bytes(data)
    size = (tiles.shape[1], tiles.shape[2])
    return FilterPicture(kind=kind, layer=layer, file=file, tile=size, channels=tuple(channels), **numbers)


def _first_weights(graph: Graph) -> Array | None:
    downstream = graph.downstream(IMAGE) if IMAGE in graph.shapes else set()
    convolutions = (node for node in graph.nodes if node.op_type == "Conv" and not downstream.isdisjoint(node.input))
    first = next(convolutions, None)
    return None if first is None else graph.value(first.input[1])


def _encode_mosaic(tiles: Array) -> bytes:
    """The RGB PNG of tiles uint8 [n,h,w,1 or 3], row by row without gaps; places that are left over are black."""
    n, height, width, _ = tiles.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    places = np.zeros((rows * columns, height, width, 3), np.uint8)
    places[:n] = tiles
    mosaic = places.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    stream = io.BytesIO()
    Image.fromarray(mosaic.reshape(rows * height, columns * width, 3)).save(stream, "PNG", optimize=True)
    return stream.getvalue()
