"""What a file answers before anything was done to it, and whether a new graph answers the same.

Pictures are noise in the ranges that networks are fed with. The file sees each alone, n times over where its batch is
fixed at n; the new graph sees all at once, so that no picture may change what another one gives.
"""

from collections.abc import Callable, Sequence

import numpy as np
from onnx import ModelProto

from percept.errors import BundleError, InferenceError
from percept.runtime.session import Session
from percept_models.graph.reader import Array

RANGES = ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0))
TOLERANCE = 1e-4  # of the greatest magnitude that one picture gives

Undo = Callable[[Array], Array]


def pictures(shape: Sequence[int]) -> Array:
    """One picture of this shape in each of `RANGES`, float32."""
    rng = np.random.default_rng(0)
    return np.stack([rng.uniform(low, high, shape) for low, high in RANGES]).astype(np.float32)


def answers(model: ModelProto, pictures: Array, n: int) -> Array:
    """The only output of a model for each picture alone; the batch of the model is n.

    Raises `BundleError` where it cannot be run, or does not give one row of float32 for each picture.
    """
    session = Session(model.SerializeToString(), quiet=True)
    (image,), (output,) = session.inputs, session.outputs
    rows = []
    for picture in pictures:
        try:
            y = session.run({image: np.stack([picture] * n)}, [output])[output]
        except InferenceError as error:
            raise BundleError(f"the file does not run on a picture of {picture.shape}: {error}") from error
        if not isinstance(y, np.ndarray) or y.dtype != np.float32:
            raise BundleError(f"the output {output!r} is not made of float32 numbers: name one that is with --output")
        if y.shape[:1] != (n,):
            raise BundleError(f"the output {output!r} {list(y.shape)} has no row for each picture of a batch of {n}")
        rows.append(y[:1])
    if len({row.shape for row in rows}) > 1:
        raise BundleError(f"the output {output!r} has another size for each picture")
    return np.concatenate(rows)


def prove(model: ModelProto, pictures: Array, expected: Array, undo: Undo, fixed: int | None) -> None:
    """Raise `BundleError` unless a new graph gives the expected rows, whatever batch the pictures come in.

    `undo` takes from its output what was put behind that of the file; `fixed` is the batch of the file.
    """
    session = Session(model.SerializeToString(), quiet=True)
    for picture, row in zip(pictures, expected, strict=True):
        n = fixed or 1
        if why := _fault(session, np.stack([picture] * n), np.stack([row] * n), undo):
            raise BundleError(f"the converted network is not what the file was: {why}")
    if why := _fault(session, pictures, expected, undo):
        kind = f"fixed at {fixed}" if fixed else "open, but not in all of the graph,"
        raise BundleError(f"the batch is {kind} and could not be made symbolic: {why}")


def _fault(session: Session, pictures: Array, expected: Array, undo: Undo) -> str | None:
    """How what a model gives differs from what is expected; None where it does not."""
    (image,), (output,) = session.inputs, session.outputs
    try:
        found = undo(session.run({image: pictures}, [output])[output])
    except InferenceError as error:
        return str(error)
    if found.shape != expected.shape:
        return f"it gives {list(found.shape)} for {list(expected.shape)}"
    finite = np.isfinite(expected)
    if not (finite.any() and np.array_equal(np.isfinite(found), finite)):
        return "it gives numbers that are not finite"
    found, expected = (np.where(finite, y, 0).astype(np.float64) for y in (found, expected))
    away = max(np.abs(y - truth).max() / (np.abs(truth).max() or 1) for y, truth in zip(found, expected, strict=True))
    return None if away <= TOLERANCE else f"a number is {away:.1e} of the greatest one away"
