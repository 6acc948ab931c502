"""What every peer does with a photo: JPEG → the bundle's pixels → its trunk → the best classes.

It does what `percept.imaging` and `percept.tasks` do, with Pillow, NumPy and ONNX Runtime alone, so that servers are
compared and not graphs or preprocessing. `BENCH_INTRA` is the number of threads of the session: 1
where a peer has a worker per core, 0 for what ONNX Runtime takes by itself.
"""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image, ImageOps

TOP_K = 5


class Model:
    """The bundle that `BENCH_BUNDLE` names."""

    def __init__(self) -> None:
        folder = Path(os.environ["BENCH_BUNDLE"])
        manifest = json.loads((folder / "manifest.json").read_text())
        self.rule, self.task = manifest["preprocessing"], manifest["task"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_INTRA"])
        self.session = ort.InferenceSession(str(folder / "trunk.onnx"), options, ["CPUExecutionProvider"])

    def answer(self, photo: bytes | Image.Image) -> dict[str, Any]:
        """The classes of a photo as `/predict` gives them."""
        image = photo if isinstance(photo, Image.Image) else Image.open(io.BytesIO(photo))
        image = ImageOps.exif_transpose(image.convert("RGB"))
        size = (self.rule["width"], self.rule["height"])
        filter_ = Image.Resampling[self.rule.get("interpolation", "bilinear").upper()]
        pixels = np.asarray(image.resize(size, filter_, box=self.box(*image.size)))
        logits = self.session.run(["logits"], {"pixels": pixels[None]})[0][0]
        return classes(logits) if self.task == "classification" else shares(logits, image.size)

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The rectangle of the photo that the network sees."""
        if self.rule["resize"] == "squeeze":
            return 0, 0, width, height
        short = self.rule["short_side"]
        scaled = [
            short if side <= other else int(short * side / other) for side, other in ((width, height), (height, width))
        ]
        w, h = self.rule["width"], self.rule["height"]
        left, top = round((scaled[0] - w) / 2), round((scaled[1] - h) / 2)
        fx, fy = width / scaled[0], height / scaled[1]
        return left * fx, top * fy, min((left + w) * fx, width), min((top + h) * fy, height)


def classes(logits: np.ndarray) -> dict[str, Any]:
    """The best classes, logits [K]."""
    powers = np.exp(logits - logits.max())
    scores = powers / powers.sum()
    return {"predictions": [{"index": int(k), "score": float(scores[k])} for k in np.argsort(-scores)[:TOP_K]]}


def shares(logits: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """The share of each class in the photo's pixels, logits [K,h,w]."""
    planes = [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR)) for plane in logits]
    counts = np.bincount(np.argmax(planes, 0).ravel(), minlength=len(logits)) / (size[0] * size[1])
    return {"classes": [{"index": int(k), "fraction": float(counts[k])} for k in np.argsort(-counts) if counts[k]]}
