"""Run an ONNX model once on the CPU: a model and its inputs come in, all its outputs leave."""

from collections.abc import Mapping
from pathlib import Path

import onnx

from percept.runtime.session import Session
from percept_models.graph.reader import Array


def run(model: onnx.ModelProto | Path, feeds: Mapping[str, Array], optimize: bool = True) -> dict[str, Array]:
    """Run a model on one CPU thread and return all its outputs by name.

    The same input gives the same bits. References are run without `optimize`, as they were written. Raises
    `BundleError` for a model that ONNX Runtime cannot load and `InferenceError` for inputs that do not fit it.
    """
    session = Session(model if isinstance(model, Path) else model.SerializeToString(), optimize=optimize)
    return session.run(feeds, list(session.outputs))
