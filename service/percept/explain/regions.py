"""The hot regions of a class-activation map, in pixels of the photo.

A map in [0,1] and its `Geometry` come in; boxes with their area, peak and share of the heat leave. The map is
interpolated by `project_to_photo`, so that boxes agree with the picture. The raster covers the part of the photo that
the network sees, in at most `MAX_RASTER_PIXELS`, so that the cost does not grow with the photo. It knows no model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import starmap
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from percept.imaging.geometry import Geometry, Map, Pixels, project_to_photo

MAX_RASTER_PIXELS = 2**16  # 256 x 256: finer than any map

Threshold = float | Literal["otsu"]  # a share of the map's maximum in (0,1), or Otsu's method


@dataclass(frozen=True)
class HotRegion:
    """A connected hot part of a map: the box around it in whole photo pixels, right and bottom exclusive.

    `area` is in photo pixels, `share` is the area's share of what the network sees of the photo, `peak` the greatest
    heat inside, and `mass` the region's share of all heat on the photo; the last three lie in (0,1].
    """

    left: int
    top: int
    right: int
    bottom: int
    area: int
    share: float
    peak: float
    mass: float


def hot_regions(heat: Map, geometry: Geometry, threshold: Threshold) -> tuple[HotRegion, ...]:
    """The regions of a map float32 [h,w] in [0,1], the largest mass first; none if no pixel is above 0.

    H is the heat of the photo's pixels and M its maximum. With a `threshold` in (0,1) a pixel is hot where H >=
    threshold * M; with `otsu`, where H / M in 256 levels is above Otsu's threshold. A region is a set of hot pixels
    connected by sides or corners. Pixels that the network does not see are in no region. Boxes are exact if the network
    sees at most `MAX_RASTER_PIXELS` of the photo, and accurate to about one pixel of the raster (1/256 of the side)
    otherwise.
    """
    H = np.nan_to_num(project_to_photo(heat, _raster(geometry))).astype(np.float64)
    M = H.max()
    if not M > 0:
        return ()
    levels = np.rint(H / M * 255).astype(np.uint8)
    hot = levels > otsu(levels) if threshold == "otsu" else threshold * M <= H
    return tuple(sorted(_measure(H, connected_components(hot), geometry.seen), key=lambda region: -region.mass))


def otsu(levels: Pixels) -> int:
    """Otsu's threshold t, which best separates levels into v <= t and v > t; -1 if all levels are equal.

    Of all t it has the largest variance between the two classes, w0 w1 (m0 - m1)^2, where w are the classes' shares
    and m their means. Otsu 1979, doi:10.1109/TSMC.1979.4310076.
    """
    count = np.bincount(levels.ravel(), minlength=256)
    n, total = np.cumsum(count), np.cumsum(count * np.arange(256))
    t = np.flatnonzero((n > 0) & (n < n[-1]))
    if not len(t):
        return -1
    n0, n1 = n[t], n[-1] - n[t]
    between = n0 * n1 * (total[t] / n0 - (total[-1] - total[t]) / n1) ** 2
    return int(t[between.argmax()])


def connected_components(hot: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Label the connected components of a mask [h,w] by 8-neighbours: 0 where it is False, then from 1.

    Components are numbered in reading order of their first pixels.
    """
    h, w = hot.shape
    # A column of False after each row, so that no run continues in the next row of the flattened mask.
    flat = np.zeros(h * (w + 1) + 1, np.int8)
    flat[1:].reshape(h, w + 1)[:, :w] = hot
    starts, stops = (np.flatnonzero(np.diff(flat) == step) for step in (1, -1))
    roots = _find_roots(len(starts), *_touching_runs(starts, stops, w + 1))
    labels = np.zeros(hot.shape, np.intp)
    labels[hot] = np.repeat(np.unique(roots, return_inverse=True)[1] + 1, stops - starts)
    return labels


def _touching_runs(
    starts: NDArray[np.intp], stops: NDArray[np.intp], stride: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """All pairs of runs [start, stop) that touch by a side or a corner, the second one row below the first."""
    first = np.searchsorted(stops, starts + stride, "left")
    counts = np.searchsorted(starts, stops + stride, "right") - first
    upper = np.repeat(np.arange(len(starts)), counts)
    offsets = np.repeat(first - np.cumsum(counts) + counts, counts)
    return upper, offsets + np.arange(len(upper))


def _find_roots(count: int, a: NDArray[np.intp], b: NDArray[np.intp]) -> NDArray[np.intp]:
    """The smallest node of the component of each of `count` nodes in the graph with the edges (a, b).

    Union-find for all edges at once: every root is attached to the smallest root that it shares an edge with, then all
    paths are compressed. Each round leaves fewer roots; maps need two or three.
    """
    root = np.arange(count)
    while (apart := root[a] != root[b]).any():
        low, high = np.sort((root[a[apart]], root[b[apart]]), axis=0)
        np.minimum.at(root, high, low)
        while (root != root[root]).any():
            root = root[root]
    return root


def _raster(geometry: Geometry) -> Geometry:
    """What the network sees of the photo as a photo of its own, of at most `MAX_RASTER_PIXELS`."""
    left, top, right, bottom = geometry.seen
    width, height = right - left, bottom - top
    x0, y0, x1, y1 = geometry.box
    part = Geometry(width, height, (x0 - left, y0 - top, x1 - left, y1 - top))
    factor = min((MAX_RASTER_PIXELS / (width * height)) ** 0.5, MAX_RASTER_PIXELS / max(width, height))
    return part if factor >= 1 else part.scaled(factor)


def _measure(H: NDArray[np.float64], labels: NDArray[np.intp], seen: tuple[int, int, int, int]) -> Iterator[HotRegion]:
    """The regions of a labelled raster that covers the rectangle `seen` of the photo."""
    (h, w), (x, y, width, height) = H.shape, (seen[0], seen[1], seen[2] - seen[0], seen[3] - seen[1])
    rows_and_columns = np.nonzero(labels)
    component, heat = labels[rows_and_columns] - 1, H[rows_and_columns]
    count = np.bincount(component)
    peak = np.zeros(len(count))
    np.maximum.at(peak, component, heat)
    top, left = (_minimum(component, index) for index in rows_and_columns)
    bottom, right = (-_minimum(component, -index - 1) for index in rows_and_columns)
    columns = (  # boxes are rounded outwards: left and top down, right and bottom up
        x + left * width // w,
        y + top * height // h,
        x - -right * width // w,
        y - -bottom * height // h,
        np.rint(count / H.size * width * height).astype(int),
        count / H.size,
        peak,
        np.bincount(component, heat) / H.sum(),
    )
    return starmap(HotRegion, zip(*(column.tolist() for column in columns), strict=True))


def _minimum(component: NDArray[np.intp], indices: NDArray[np.intp]) -> NDArray[np.intp]:
    """The smallest index of the pixels of each component."""
    minimum = np.full(component.max() + 1, np.iinfo(np.intp).max)
    np.minimum.at(minimum, component, indices)
    return minimum
