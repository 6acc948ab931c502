"""A feature map in three colours: its principal components over the cells, and how they become visible.

Activations of one layer come in, maps of the same cells leave: first the components in their own units, then the
same stretched to 0..255. Pure functions. It knows no photo, no model and no HTTP.

Letters: A [C,h,w] activations, n = h w cells, X [C,n] the activations less each channel's mean over the cells,
p = min(C, n).
"""

import numpy as np

from percept.imaging.geometry import Map

EXACT = 256  # up to so many channels or cells all is decomposed; beyond it only the leading part is sought
BLOCK, ROUNDS = 8, 12  # of the search: so many directions at a time, so often multiplied
TRIVIAL = 1e-3  # a component of less than this share of the first one's length is no more than rounding
ROUNDING = 1e-6  # the same for the first, as a share of the length of A
PERCENTILES = (1, 99)


def principal_components(A: Map, count: int = 3) -> Map:
    """The first principal components of the channels, cell by cell: v_i^T X, float32 [count,h,w].

    X X^T v_i = s_i^2 v_i, s_1 >= s_2 >= ..., |v_i| = 1; so the map of component i has mean 0 and length s_i. Its sign
    is the one by which its greatest magnitude, of equals the first in reading order, is positive. Components that
    there are not (fewer channels or cells, a constant map, what is but rounding) are zeros.

    Pearson 1901, doi:10.1080/14786440109462720; Hotelling 1933, doi:10.1037/h0071325. Where p > `EXACT` by block
    Krylov vectors: Musco and Musco 2015, arXiv:1504.05477.
    """
    found = np.zeros((count, A[0].size), np.float32)
    X = A.reshape(len(A), -1)
    scale = float(np.abs(X).max()) or 1.0  # or the squares of great activations would overflow
    X = X / np.float32(scale)
    length = float(np.linalg.norm(X))
    X = X - X.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
    scores = _scores(X, count)
    sizes = np.linalg.norm(scores, axis=1)
    for i in np.flatnonzero(sizes > max(TRIVIAL * sizes[0], ROUNDING * length)):
        found[i] = _upright(scores[i]) * np.float32(scale)
    return found.reshape(count, *A.shape[1:])


def colours(maps: Map) -> Map:
    """Maps [k,h,w] each stretched from its 1st to its 99th percentile over 0..255, float32; of a constant one 0.

    Where these percentiles are the same, as around a single hot cell, it is stretched over its whole range.
    """
    low, high = np.percentile(maps, PERCENTILES, axis=(1, 2), keepdims=True)
    narrow = high <= low
    low = np.where(narrow, maps.min((1, 2), keepdims=True), low)
    high = np.where(narrow, maps.max((1, 2), keepdims=True), high)
    shares = (maps - low) / np.where(high > low, high - low, 1)
    return np.asarray(np.clip(shares, 0, 1) * 255, np.float32)


def _scores(X: Map, count: int) -> Map:
    """The components of X [C,n] with either sign, float32 [at most count,n], by the smaller of X X^T and X^T X."""
    few_channels = len(X) <= X.shape[1]
    M = X if few_channels else X.T
    Q = _leading(M) if len(M) > EXACT else np.eye(len(M), dtype=np.float32)
    B = Q.T @ M if len(M) > EXACT else M
    values, vectors = np.linalg.eigh(B @ B.T)
    U = vectors[:, ::-1][:, :count]
    if few_channels:
        return np.asarray(U.T @ B, np.float32)
    s = np.sqrt(np.maximum(values[::-1][:count], 0))
    return np.asarray(s[:, None] * (Q @ U).T, np.float32)


def _leading(M: Map) -> Map:
    """An orthonormal basis [p,k] around the leading left singular vectors of M [p,q]; it always begins the same."""
    q = np.random.default_rng(0).standard_normal((len(M), BLOCK)).astype(np.float32)
    blocks = []
    for _ in range(ROUNDS):
        q = np.linalg.qr(M @ (M.T @ q))[0]
        blocks.append(q)
    return np.asarray(np.linalg.qr(np.concatenate(blocks, 1))[0], np.float32)


def _upright(score: Map) -> Map:
    """The map or its negative: the one whose greatest magnitude is positive; of equals the first cell decides."""
    size = np.abs(score)
    greatest = score[size >= (1 - 1e-4) * size.max()]
    return score if greatest[0] > 0 else -score
