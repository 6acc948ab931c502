"""One file of weights for all graphs of a bundle: ONNX external data in which every tensor is stored once.

`WeightsFile` writes large tensors to `weights.bin`, equal bytes only once, and models that refer to them; small tensors
stay inside their graph. `read_parameters` reads the weights back under their torch names.
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
from percept.bundle.manifest import WEIGHTS
from percept_models.sources.trunk import PARAMETER_PREFIX

ALIGNMENT = 64  # bytes: a cache line, so that a mapped file can be used in place
SMALL_BYTES = 1024  # tensors below this size stay inside their graph
DATA_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


class WeightsFile:
    """An open `weights.bin` in a folder, to which models are saved one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._offsets: dict[bytes, int] = {}  # by the SHA-256 of a tensor's bytes

    def __enter__(self) -> Self:
        self._stream = (self.folder / WEIGHTS).open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def save(self, model: onnx.ModelProto, name: str) -> None:
        """Write a copy of the model as the file `name`, its large tensors to `weights.bin`."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for tensor in copy.graph.initializer:
            self._move(tensor)
        (self.folder / name).write_bytes(copy.SerializeToString(deterministic=True))

    def _move(self, tensor: TensorProto) -> None:
        """Replace the bytes of a large tensor by a reference to them in `weights.bin`."""
        raw = numpy_helper.to_array(tensor).tobytes()
        if len(raw) < SMALL_BYTES:
            return
        offset = self._write(raw)
        for field in DATA_FIELDS:
            tensor.ClearField(field)
        tensor.raw_data = raw  # set_external_data refuses a tensor without it
        set_external_data(tensor, WEIGHTS, offset, len(raw))
        tensor.ClearField("raw_data")

    def _write(self, raw: bytes) -> int:
        """The offset of these bytes in `weights.bin`, written there if they are new."""
        key = sha256(raw).digest()
        if key not in self._offsets:
            self._stream.write(bytes(-self._stream.tell() % ALIGNMENT))
            self._offsets[key] = self._stream.tell()
            self._stream.write(raw)
        return self._offsets[key]


def read_parameters(bundle: Path) -> dict[str, Tensor]:
    """The parameters of the network in a bundle, by the names that they have in torch."""
    trunk = onnx.load(bundle / read_manifest(bundle).trunk)
    return {
        tensor.name.removeprefix(PARAMETER_PREFIX): torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in trunk.graph.initializer
        if tensor.name.startswith(PARAMETER_PREFIX)
    }
