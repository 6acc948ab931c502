"""FILES: real networks as other people's ONNX files, with the preprocessing that their makers state.

They lie in a folder beside the checkout and are not part of the project; without it there are none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from benchmarks.harness.peer_servers import ROOT
from percept.imaging.geometry import Map

FOLDER = ROOT.parent / "shared" / "models"


@dataclass(frozen=True)
class NetworkFile:
    """A file, the size of its input, and how its makers normalize: (pixels - mean) / std in its channel order.

    `short_side` is the length of the short side before a crop; without it the whole photo is resized. A file with
    `probability` gives the probability of its only class, not a logit.
    """

    file: str
    size: int
    mean: tuple[float, ...] = (127.5,) * 3
    std: tuple[float, ...] = (127.5,) * 3
    short_side: int | None = None
    channels: str = "RGB"
    probability: bool = False

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return FOLDER / self.file

    @property
    def options(self) -> dict[str, Any]:
        """The fields of `ExportOptions` that a user gives."""
        given: dict[str, Any] = {"mean": self.mean, "std": self.std, "channels": self.channels}
        given |= {"height": self.size, "width": self.size}
        if self.short_side:
            given |= {"resize": "crop", "resize_size": (self.short_side, self.short_side)}
        return {"preprocessing": given}


_KNOWN = (
    NetworkFile("tf2_mobilenet_v2_1.0_224.onnx", 224, short_side=256),
    NetworkFile("squeezenet1.0_deepcompression_227.onnx", 227, (104, 117, 123), (1, 1, 1), 256, "BGR"),
    NetworkFile("mobilenet_v1_0.25_128.onnx", 128, short_side=146),
    NetworkFile("cifar10_resnet20.onnx", 32, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    NetworkFile("deeplabv3_mnv2_dm05_pascal_513.onnx", 513),
    NetworkFile("prisma_nchw.onnx", 256, (0, 0, 0), (255, 255, 255), probability=True),
    NetworkFile(
        "SINet.onnx",
        320,
        (102.890434, 111.25247, 126.91212),
        tuple(255 * v for v in (62.93292, 62.82138, 66.355705)),
        channels="BGR",
    ),
)
FILES: Mapping[str, NetworkFile] = {f"file: {one.file}": one for one in _KNOWN if one.path.is_file()}


def file_reference(file: NetworkFile, photo: Image.Image) -> Map:
    """Scores [K] or [K,h,w] of the file in ONNX Runtime with every optimizer off, as its makers preprocess.

    A photo is resized to the rounded size, then cropped, as torchvision does.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # old files list their weights as inputs, which is a warning for each
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file.path, options, ["CPUExecutionProvider"])
    pixels = np.asarray(_resize(file, photo), np.float32)
    pixels = pixels[..., ::-1] if file.channels == "BGR" else pixels
    x = ((pixels - np.array(file.mean, np.float32)) / np.array(file.std, np.float32)).transpose(2, 0, 1)
    (y,) = session.run(None, {session.get_inputs()[0].name: x[None].astype(np.float32)})
    y = y[0].reshape(-1) if y[0].size == max(y[0].shape) else y[0]
    if file.probability:
        return np.concatenate([1 - y, y])
    y = np.concatenate([0 * y, y]) if len(y) == 1 else y
    powers = np.exp(y - y.max(0))
    return np.asarray(powers / powers.sum(0), np.float32)


def _resize(file: NetworkFile, photo: Image.Image) -> Image.Image:
    if not file.short_side:
        return photo.resize((file.size, file.size), Image.Resampling.BILINEAR)
    ratio = file.short_side / min(photo.size)
    width, height = (file.short_side if side == min(photo.size) else int(side * ratio) for side in photo.size)
    left, top = round((width - file.size) / 2), round((height - file.size) / 2)
    resized = photo.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + file.size, top + file.size))
