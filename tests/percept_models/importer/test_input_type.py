"""Images of other types than float32, and of one and four channels, come into the graph as float32 pixels."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import NodeProto, TensorProto

from percept.bundle.preprocessing import Preprocessing
from percept.errors import BundleError
from percept_models.graph.execution import run
from percept_models.graph.reader import Array
from percept_models.importer.network import import_network
from percept_models.importer.trunk import build_trunk
from percept_models.sources.channels import CHANNELS_BY_COUNT
from tests.percept_models.importer.graphs import Shape, conv, floats, node, operators, pool_and_flatten, write_file

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 4), np.uint8)
CAST, TO_NCHW = node("Cast", "x", "f", to=TensorProto.FLOAT), {"perm": [0, 3, 1, 2]}
# The nodes from the input to `n` [N,C,H,W], and whether the image keeps its gradients.
UINT8 = {
    "cast": ([CAST, node("Transpose", "f", "n", **TO_NCHW)], True),
    "moved, then cast": ([node("Transpose", "x", "t", **TO_NCHW), node("Cast", "t", "n", to=TensorProto.FLOAT)], True),
    "dequantized": ([node("DequantizeLinear", "x scale zero", "d"), node("Transpose", "d", "n", **TO_NCHW)], True),
    "dequantized without zero": (
        [node("DequantizeLinear", "x scale", "d"), node("Transpose", "d", "n", **TO_NCHW)],
        True,
    ),
    "computed": (
        [node("Max", "x x", "m"), node("Cast", "m", "f", to=TensorProto.FLOAT), node("Transpose", "f", "n", **TO_NCHW)],
        False,
    ),
}

QUANTIZATION: dict[str, Array] = {"scale": np.array(0.5, np.float32), "zero": np.array(100, np.uint8)}


def write_network(
    folder: Path, front: list[NodeProto], image: Shape, channels: int, kind: int = TensorProto.FLOAT
) -> Path:
    """A classifier whose convolution takes `n`, which the nodes in front compute from `x`."""
    weights = [floats("v", 4, channels, 3, 3), *(onnx.numpy_helper.from_array(a, n) for n, a in QUANTIZATION.items())]
    return write_file(folder, [*front, conv("n", "c", "v"), *pool_and_flatten("c")], weights, image, kind=kind)


def logits_of_file(file: Path, x: Array) -> Array:
    """What ONNX Runtime computes of the file."""
    return np.asarray(ort.InferenceSession(file).run(["y"], {"x": x})[0])


def logits_of_trunk(file: Path, pixels: Array) -> Array:
    """What the trunk of the imported file computes of pixels [N,H,W,C]."""
    network = import_network(file)
    rule = Preprocessing(height=8, width=6, channels=CHANNELS_BY_COUNT[network.channels])
    return run(build_trunk(network, rule), {"pixels": pixels})["logits"]


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_grey_and_alpha_images_are_imported(tmp_path: Path, layout: str, channels: int) -> None:
    last = layout == "NHWC"
    front = [node("Transpose", "x", "n", **TO_NCHW) if last else node("Identity", "x", "n")]
    file = write_network(tmp_path, front, ("N", 8, 6, channels) if last else ("N", channels, 8, 6), channels)
    pixels = PIXELS[..., :channels]
    x = pixels if last else pixels.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(
        logits_of_trunk(file, pixels), logits_of_file(file, x.astype(np.float32)), rtol=1e-5, atol=1e-3
    )


@pytest.mark.parametrize("case", UINT8)
def test_uint8_pixels_are_given_as_they_are(tmp_path: Path, case: str) -> None:
    front, differentiable = UINT8[case]
    file = write_network(tmp_path, front, ("N", 8, 6, 3), 3, TensorProto.UINT8)
    pixels = PIXELS[..., :3]
    np.testing.assert_allclose(logits_of_trunk(file, pixels), logits_of_file(file, pixels), rtol=1e-5, atol=1e-3)
    assert ("Cast" not in operators(import_network(file))) == differentiable
    with pytest.raises(BundleError, match="normalizes them itself: leave out --mean and --std"):
        build_trunk(import_network(file), Preprocessing(height=8, width=6, mean=(1.0, 1.0, 1.0)))


def test_float16_image_becomes_float32(tmp_path: Path) -> None:
    front = [node("Cast", "x", "n", to=TensorProto.FLOAT)]
    file = write_network(tmp_path, front, ("N", 3, 8, 6), 3, TensorProto.FLOAT16)
    pixels = PIXELS[..., :3]
    expected = logits_of_file(file, pixels.transpose(0, 3, 1, 2).astype(np.float16))
    np.testing.assert_allclose(logits_of_trunk(file, pixels), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("channels", "remedy"), [("RGB", "use --channels GRAY"), ("RGBA", "use --channels GRAY")])
def test_channels_other_than_the_files_are_rejected(tmp_path: Path, channels: str, remedy: str) -> None:
    network = import_network(write_network(tmp_path, [node("Identity", "x", "n")], ("N", 1, 8, 6), 1))
    with pytest.raises(BundleError, match=f"takes images of 1 channel, and {channels} has .: {remedy}"):
        build_trunk(network, Preprocessing.model_validate({"height": 8, "width": 6, "channels": channels}))
