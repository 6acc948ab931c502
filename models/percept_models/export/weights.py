"""One file of weights for all graphs of a bundle: ONNX external data in which no tensor stands twice.

`WeightsFile` gives every big tensor a place in `weights.bin`, the same place to the same bytes, and writes models that
refer to it. Small tensors stay inside their graph.
"""

from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

import onnx
import torch
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import set_external_data
from torch import Tensor

from percept.bundle.integrity import read_manifest
from percept.bundle.manifest import (
    WEIGHTS,
)
from percept_models.sources.trunk import PREFIX

ALIGNMENT = 64  # bytes: a cache line, so that a mapped file can be used in place
SMALL = 1024  # bytes


class WeightsFile:
    """An open `weights.bin` in a folder, to which models are saved one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[bytes, int] = {}

    def __enter__(self) -> Self:
        self._stream = (self.folder / WEIGHTS).open("wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    def save(self, model: onnx.ModelProto, name: str) -> None:
        """Write a copy of the model as `name`, its big tensors in `weights.bin`."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for tensor in copy.graph.initializer:
            self._store(tensor)
        (self.folder / name).write_bytes(copy.SerializeToString(deterministic=True))

    def _store(self, tensor: TensorProto) -> None:
        raw = numpy_helper.to_array(tensor).tobytes()
        if len(raw) < SMALL:
            return
        key = sha256(raw).digest()
        if key not in self._places:
            self._stream.write(bytes(-self._stream.tell() % ALIGNMENT))
            self._places[key] = self._stream.tell()
            self._stream.write(raw)
        for kind in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(kind)
        tensor.raw_data = raw
        set_external_data(tensor, WEIGHTS, self._places[key], len(raw))
        tensor.ClearField("raw_data")


def read_parameters(bundle: Path) -> dict[str, Tensor]:
    """The parameters of the network in a bundle, by the names that they have in torch."""
    trunk = onnx.load(bundle / read_manifest(bundle).trunk)
    return {
        tensor.name.removeprefix(PREFIX): torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in trunk.graph.initializer
        if tensor.name.startswith(PREFIX)
    }
