"""Check that a converted network computes what its file computes.

The file, before conversion, is run on each sample image alone, repeated n times if its batch is fixed at n. The
converted network is run on all images in one batch, which shows whether an image influences another one.
"""

from collections.abc import Callable, Sequence
from math import inf

import numpy as np
from onnx import ModelProto

from percept.errors import BundleError, InferenceError
from percept.runtime.session import Session
from percept_models.graph.reader import Array

RANGES = ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0))  # in which networks expect their input
TOLERANCE = 1e-4  # relative to the greatest magnitude in the output of one image

Undo = Callable[[Array], Array]


def sample_images(shape: Sequence[int], pixels: bool = False) -> Array:
    """Return one image of uniform noise for each of `RANGES`, float32 [3,*shape]; of `pixels`, integers of 0..255."""
    rng = np.random.default_rng(0)
    if pixels:
        return rng.integers(0, 256, (len(RANGES), *shape)).astype(np.float32)
    return np.stack([rng.uniform(low, high, shape) for low, high in RANGES]).astype(np.float32)


def run_each(model: ModelProto, images: Array, n: int, kinds: str = "f") -> Array:
    """Run a model whose batch is n on each image alone and return its only output as float32, one row per image.

    `kinds` are NumPy's letters of the types that the output may have. Raises `BundleError` where the model cannot be
    run, or does not give one row of such a type per image.
    """
    session = Session(model.SerializeToString(), quiet=True, optimize=False)
    (output,) = session.outputs
    rows = [_run_one(session, image, n, kinds) for image in images]
    if len({row.shape for row in rows}) > 1:
        raise BundleError(f"the size of the output {output!r} differs from image to image")
    return np.concatenate(rows)


def _run_one(session: Session, image: Array, n: int, kinds: str) -> Array:
    (feed,), (output,) = session.inputs, session.outputs
    try:
        y = session.run({feed: np.stack([image] * n)}, [output])[output]
    except InferenceError as error:
        raise BundleError(f"the file does not run on an image of shape {image.shape}: {error}") from error
    if not isinstance(y, np.ndarray) or y.dtype.kind not in kinds:
        raise BundleError(f"the output {output!r} is not floating-point: name one that is with --output")
    if y.shape[:1] != (n,):
        raise BundleError(f"the output {output!r} {list(y.shape)} has no row for each image of a batch of {n}")
    return y[:1].astype(np.float32)


def check_equivalence(model: ModelProto, images: Array, expected: Array, undo: Undo, fixed: int | None) -> None:
    """Raise `BundleError` unless a converted network gives the expected rows, both one by one and in one batch.

    `undo` reverts the conversion of its output; `fixed` is the batch of the file where that is fixed.
    """
    session = Session(model.SerializeToString(), quiet=True, optimize=False)
    for image, row in zip(images, expected, strict=True):
        n = fixed or 1
        if difference := _difference(session, np.stack([image] * n), np.stack([row] * n), undo):
            raise BundleError(f"the converted network does not compute what the file computes: {difference}")
    if difference := _difference(session, images, expected, undo):
        batch = f"fixed at {fixed}" if fixed else "open, but not in all of the graph,"
        raise BundleError(f"the batch is {batch} and could not be made symbolic: {difference}")


def _difference(session: Session, images: Array, expected: Array, undo: Undo) -> str | None:
    """Describe how a model's output differs from the expected one; None where it does not."""
    (feed,), (output,) = session.inputs, session.outputs
    try:
        found = undo(session.run({feed: images}, [output])[output])
    except InferenceError as error:
        return str(error)
    if found.shape != expected.shape:
        return f"its shape is {list(found.shape)} instead of {list(expected.shape)}"
    worst = greatest_error(found, expected)
    if worst == inf:
        return "it gives numbers that are not finite"
    return None if worst <= TOLERANCE else f"a number differs by {worst:.1e} of the greatest one"


def greatest_error(found: Array, expected: Array) -> float:
    """Return the greatest difference of all rows, relative to the greatest magnitude of the row.

    Infinite where the numbers that are finite are not the same in both, or there is none.
    """
    finite = np.isfinite(expected)
    if not (finite.any() and np.array_equal(np.isfinite(found), finite)):
        return inf
    found, expected = (np.where(finite, y, 0).astype(np.float64) for y in (found, expected))
    return max(float(np.abs(y - e).max() / (np.abs(e).max() or 1)) for y, e in zip(found, expected, strict=True))
