"""The leading singular vectors of a matrix, without its whole decomposition. Pure functions on arrays.

Decomposing a layer of 2048 channels takes seconds; the first few vectors take milliseconds by block Krylov iteration
(Musco and Musco 2015, arXiv:1504.05477) and the Rayleigh-Ritz method. With G = X X^T the basis Q grows by the block
that G times the last block adds to it, and the vectors are the best eigenvectors of G within Q.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

MAX_BASIS = 96  # vectors in Q
CHECK_EVERY = 8  # vectors: how often convergence is checked
CONVERGED = 1e-6  # of |G v - s^2 v|, as a share of s^2
EXHAUSTED = 1e-6  # share of a block outside of the span of Q: a smaller share is a rounding error


def leading_singular_vectors(X: Array, count: int = 1, block: int = 1) -> Array:
    """The first `count` left singular vectors of X [n,m], as rows of unit length, float32 [at most count,n].

    A larger `block` finds vectors of equal singular values too; 1 converges fastest to a single vector. The iteration
    always starts from the same random vectors. The sign of a vector is arbitrary, and so are vectors of equal singular
    values within the plane that they span.
    """
    X = X * np.float32(1 / max(float(np.abs(X).max()), 1e-30))  # the squares of small numbers would underflow
    q = np.asarray(np.random.default_rng(0).standard_normal((block, len(X))), np.float32)
    Q, GQ = np.zeros((2, min(len(X), MAX_BASIS), len(X)), np.float32)
    size = 0
    while size < len(Q):
        length = np.linalg.norm(q)
        q = _remove_span(q, Q[:size])
        if np.linalg.norm(q) <= EXHAUSTED * length:
            break
        q = _orthonormalize(q, Q[:size])[: len(Q) - size]
        new = slice(size, size + len(q))
        Q[new], GQ[new] = q, (q @ X) @ X.T
        q, size = GQ[new], new.stop
        if size % CHECK_EVERY == 0 and _ritz(Q[:size], GQ[:size], count)[1] <= CONVERGED:
            break
    return _ritz(Q[:size], GQ[:size], count)[0]


def _remove_span(q: Array, Q: Array) -> Array:
    """The rows of q without their components in the span of the orthonormal rows of Q."""
    return np.asarray(q - (q @ Q.T) @ Q, np.float32)


def _orthonormalize(q: Array, Q: Array) -> Array:
    """Rows that span what q adds to Q, orthonormal to each other and to Q; the second pass removes rounding errors."""
    for _ in range(2):
        q = np.asarray(np.linalg.qr(_remove_span(q, Q).T)[0].T, np.float32)
    return q


def _ritz(Q: Array, GQ: Array, count: int) -> tuple[Array, float]:
    """The best eigenvectors of G in the span of Q, and the largest residual among them as a share of its value."""
    values, vectors = np.linalg.eigh(Q @ GQ.T)
    values, weights = values[::-1][:count], vectors[:, ::-1][:, :count].T
    found = weights @ Q
    residuals = np.linalg.norm(weights @ GQ - values[:, None] * found, axis=1)
    return found, float((residuals / np.maximum(values, 1e-30)).max())
