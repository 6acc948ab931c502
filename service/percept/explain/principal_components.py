"""A feature map in three colours: the principal components of its channels over the cells, and their colours.

The activations of one layer come in, maps of the same cells leave: the components in their own units, or the same maps
stretched to 0..255. Pure functions. It knows no photo and no model.

Letters: A [C,h,w] activations, n = h w cells, X [C,n] the activations minus each channel's mean over the cells,
s_i and v_i the singular values and left singular vectors of X, p = min(C, n).
"""

import numpy as np

from percept.explain.singular_vectors import leading_singular_vectors
from percept.imaging.geometry import Map

EXACT = 256  # up to this p the decomposition is exact; for a larger p an iteration finds the leading vectors
BLOCK = 8  # vectors in a block of that iteration, more than there are colours: see `leading_singular_vectors`
TRIVIAL = 1e-3  # a component shorter than this share of the first one is a rounding error
ROUNDING = 1e-6  # a first component shorter than this share of the length of A is one too
PERCENTILES = (1, 99)


def principal_components(A: Map, count: int = 3) -> Map:
    """The first principal components of the channels, cell by cell: v_i^T X, float32 [count,h,w].

    X X^T v_i = s_i^2 v_i, s_1 >= s_2 >= ..., |v_i| = 1, so the map of component i has mean 0 and length s_i. Its sign
    makes its greatest magnitude positive, the first in reading order of equals. Components that do not exist (fewer
    channels or cells, a constant map) or that are rounding errors are zeros.

    Pearson 1901, doi:10.1080/14786440109462720; Hotelling 1933, doi:10.1037/h0071325.
    """
    components = np.zeros((count, A[0].size), np.float32)
    X = A.reshape(len(A), -1)
    scale = float(np.abs(X).max()) or 1.0  # the squares of large activations would overflow
    X = X / np.float32(scale)
    length = float(np.linalg.norm(X))
    X = X - X.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
    projections = _project(X, count)
    sizes = np.linalg.norm(projections, axis=1)
    for i in np.flatnonzero(sizes > max(TRIVIAL * sizes[0], ROUNDING * length)):
        components[i] = _orient(projections[i]) * np.float32(scale)
    return components.reshape(count, *A.shape[1:])


def scale_to_colours(maps: Map) -> Map:
    """Stretch each of the maps [k,h,w] from its 1st and 99th percentile to 0..255, float32; a constant map becomes 0.

    If these percentiles are equal, as around a single hot cell, the map is stretched from its minimum to its maximum.
    """
    low, high = np.percentile(maps, PERCENTILES, axis=(1, 2), keepdims=True)
    narrow = high <= low
    low = np.where(narrow, maps.min((1, 2), keepdims=True), low)
    high = np.where(narrow, maps.max((1, 2), keepdims=True), high)
    shares = (maps - low) / np.where(high > low, high - low, 1)
    return np.asarray(np.clip(shares, 0, 1) * 255, np.float32)


def _project(X: Map, count: int) -> Map:
    """v_i^T X of the first components with either sign, float32 [at most count,n]."""
    if len(X) <= X.shape[1]:
        return np.asarray(_left_vectors(X, count) @ X, np.float32)
    right = _left_vectors(X.T, count)  # fewer cells than channels: v_i^T X = s_i times the right singular vector
    return np.asarray(np.linalg.norm(right @ X.T, axis=1, keepdims=True) * right, np.float32)


def _left_vectors(M: Map, count: int) -> Map:
    """The first left singular vectors of M [p,q] as rows."""
    if len(M) > EXACT:
        return leading_singular_vectors(M, count, BLOCK)
    return np.asarray(np.linalg.eigh(M @ M.T)[1][:, ::-1][:, :count].T, np.float32)


def _orient(projection: Map) -> Map:
    """The map or its negative: the one whose greatest magnitude is positive; among equals the first cell decides."""
    size = np.abs(projection)
    greatest = projection[size >= (1 - 1e-4) * size.max()]
    return projection if greatest[0] > 0 else -projection
