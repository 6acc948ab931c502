"""Trunks in fewer bits: what must stay as it was, what must be smaller, and how much may be lost."""

import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

from percept.bundle.manifest import read
from percept.errors import BundleError
from percept.runtime.session import Session
from percept.settings import BUILT_IN
from percept_models.export import precision
from percept_models.export.bundle_writer import golden
from percept_models.export.precision import OPERATORS, half, pictures, quantized
from percept_models.graph.reader import OPSET, Array, Builder, run
from percept_models.sources.trunk import LOGITS, PIXELS, trace
from percept_models.training.recipes import RECIPES
from percept_models.verify.checks import difference
from tests.percept_models.networks import HOW, Classifier, Pyramid
from tests.photos import encoded, marked

PHOTOS = [golden(HOW, seed)[0] for seed in range(24)]


class Normed(nn.Module):
    """Two batch norms, one whose variance is too great for float16 and one that follows no convolution.

    Behind them are an operator that the tools leave in float32 and a dead channel, which they mention in the log.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.late = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 4, 1)
        self.first.weight.data *= 1e3
        self.norm.running_var.fill_(1e6)
        self.head.weight.data[0] *= 1e-10

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        x = self.late(self.norm(self.first(x)).relu())
        return self.head(torch.maximum(x, -x))


NETWORKS = {
    "classifier": (Classifier, ("stem", "stage1", "stage2")),
    "pyramid": (Pyramid, ("stage1", "stage2", "stage3", "merge")),
    "normed": (Normed, ("norm", "late")),
}
FEWER: dict[str, Callable[[ModelProto], ModelProto]] = {"half": half, "int8": lambda trunk: quantized(trunk, PHOTOS)}
# The greatest error of an output, as a share of its greatest value.
BOUNDS = {"half": 3e-3, "int8": 0.1}


@pytest.fixture(scope="module", params=NETWORKS)
def trunk(request: pytest.FixtureRequest) -> ModelProto:
    network, layers = NETWORKS[request.param]
    return trace(network(), HOW, layers)


@pytest.fixture(scope="module")
def made(trunk: ModelProto) -> dict[str, ModelProto]:
    """The trunk in each of the precisions."""
    return {name: make(trunk) for name, make in FEWER.items()}


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of this test's own where temporary files are made."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def ports(model: ModelProto) -> list[tuple[str, int, list[str | int]]]:
    """Name, type and shape of all inputs and outputs, in order."""
    values = [(value.name, value.type.tensor_type) for value in [*model.graph.input, *model.graph.output]]
    return [(name, kind.elem_type, [d.dim_param or d.dim_value for d in kind.shape.dim]) for name, kind in values]


@pytest.mark.parametrize("name", FEWER)
def test_inputs_and_outputs_keep_their_names_types_and_shapes(trunk, made, name) -> None:
    assert ports(made[name]) == ports(trunk)
    assert {kind for _, kind, _ in ports(made[name])[1:]} == {TensorProto.FLOAT}
    assert {shape[0] for _, _, shape in ports(made[name])} == {"N"}
    onnx.checker.check_model(made[name], full_check=True)


@pytest.mark.parametrize("name", FEWER)
def test_every_output_is_close_to_what_it_was(trunk, made, name) -> None:
    """On photos that were not calibrated on, and in a batch."""
    batch = np.stack([golden(HOW, seed)[0] for seed in range(100, 105)])
    truth, found = run(trunk, {PIXELS: batch}), run(made[name], {PIXELS: batch})
    assert list(found) == list(truth)
    for output in truth:
        assert found[output].dtype == np.float32
        assert difference(found[output], truth[output]) < BOUNDS[name], output


def kinds(model: ModelProto) -> set[int]:
    """The types of the stored tensors that have the dimensions of weights."""
    return {t.data_type for t in model.graph.initializer if len(t.dims) > 1}


def test_weights_are_stored_in_fewer_bits(trunk, made) -> None:
    assert kinds(trunk) == {TensorProto.FLOAT}
    assert kinds(made["half"]) == {TensorProto.FLOAT16}
    assert kinds(made["int8"]) == {TensorProto.INT8}


def test_weights_have_a_scale_for_each_channel_and_no_offset(trunk, made) -> None:
    stored = {t.name: numpy_helper.to_array(t) for t in made["int8"].graph.initializer}
    opened = [n.input for n in made["int8"].graph.node if n.op_type == "DequantizeLinear" and n.input[0] in stored]
    weights = [names for names in opened if stored[names[0]].dtype == np.int8]
    assert weights
    for value, scale, offset in weights:
        assert stored[scale].shape == stored[value].shape[:1]
        assert not stored[offset].any()
        assert np.abs(stored[value]).max() == 127


def test_activations_are_unsigned(made) -> None:
    """Signed ones are slower on the CPU."""
    stored = {t.name: t.data_type for t in made["int8"].graph.initializer}
    rounded = [n for n in made["int8"].graph.node if n.op_type == "QuantizeLinear"]
    assert {stored[node.input[2]] for node in rounded} == {TensorProto.UINT8}


@pytest.mark.parametrize("name", FEWER)
def test_the_trunk_itself_stays_as_it_was(trunk, name) -> None:
    """The tools move the weights of a model that is handed to them."""
    before = trunk.SerializeToString(deterministic=True)
    FEWER[name](trunk)
    assert trunk.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", FEWER)
def test_the_same_trunk_gives_the_same_bytes(trunk, made, name) -> None:
    again = FEWER[name](trunk)
    assert again.SerializeToString(deterministic=True) == made[name].SerializeToString(deterministic=True)
    assert not again.metadata_props
    assert [(opset.domain, opset.version) for opset in again.opset_import] == [("", OPSET)]


@pytest.mark.parametrize("name", FEWER)
def test_nothing_is_said_and_nothing_is_left(trunk, name, scratch, capfd, monkeypatch) -> None:
    """Neither on the terminal, nor in the log and its configuration, nor on the disk."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # pytest's own would hide that somebody sets it up
    FEWER[name](trunk)
    assert capfd.readouterr() == ("", "")
    assert root.handlers == []
    assert list(scratch.iterdir()) == []


def test_nothing_is_left_by_a_failure(trunk, scratch) -> None:
    def broken() -> Iterator[Array]:
        yield PHOTOS[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"):
        quantized(trunk, broken())
    assert list(scratch.iterdir()) == []


def test_calibration_needs_a_picture(trunk) -> None:
    with pytest.raises(BundleError, match="no picture"):
        quantized(trunk, iter(()))


def test_linear_layers_do_not_round_the_logits() -> None:
    """Two classes of a thousand would often have the same one of 256 values."""
    trunk = trace(Classifier(), HOW, ("stem",))
    last = quantized(trunk, PHOTOS).graph.node[-1]
    assert (last.op_type, list(last.output)) == ("Gemm", [LOGITS])


# Each operator on x [N,8,16,16]; `c` stores a constant.
CASES: dict[str, Callable[..., str]] = {
    "Conv": lambda b, x, c: b.op.Conv(x, c(noise(8, 8, 1, 1))),
    "Gemm": lambda b, x, c: b.op.Gemm(b.op.Flatten(x), c(noise(4, 2048)), c(noise(4)), transB=1),
    "MatMul": lambda b, x, c: b.op.MatMul(x, c(noise(16, 4))),
    "Add": lambda b, x, c: b.op.Add(x, b.op.Sigmoid(x)),
    "Mul": lambda b, x, c: b.op.Mul(x, b.op.Sigmoid(x)),
    "Relu": lambda b, x, c: b.op.Relu(x),
    "Clip": lambda b, x, c: b.op.Clip(x, c(np.float32(0)), c(np.float32(6))),
    "LeakyRelu": lambda b, x, c: b.op.LeakyRelu(x),
    "Sigmoid": lambda b, x, c: b.op.Sigmoid(x),
    "MaxPool": lambda b, x, c: b.op.MaxPool(x, kernel_shape=[2, 2]),
    "AveragePool": lambda b, x, c: b.op.AveragePool(x, kernel_shape=[2, 2]),
    "GlobalAveragePool": lambda b, x, c: b.op.GlobalAveragePool(x),
    "Concat": lambda b, x, c: b.op.Concat(x, b.op.Sigmoid(x), axis=1),
    "Split": lambda b, x, c: b.op.Concat(*b.write("Split", [x], 2, axis=2, num_outputs=2), axis=1),
    "Slice": lambda b, x, c: b.op.Slice(x, c(np.array([0])), c(np.array([8])), c(np.array([2]))),
    "Gather": lambda b, x, c: b.op.Gather(x, c(np.array([1, 0, 3])), axis=1),
    "Pad": lambda b, x, c: b.op.Conv(b.op.Pad(x, c(np.array([0, 0, 1, 1, 0, 0, 1, 1]))), c(noise(8, 8, 3, 3))),
    "Reshape": lambda b, x, c: b.op.Reshape(x, c(np.array([0, 4, 2, 256]))),
    "Flatten": lambda b, x, c: b.op.Flatten(x),
    "Transpose": lambda b, x, c: b.op.Transpose(x, perm=[0, 1, 3, 2]),
    "Squeeze": lambda b, x, c: b.op.Squeeze(b.op.GlobalAveragePool(x), c(np.array([2, 3]))),
    "Unsqueeze": lambda b, x, c: b.op.Unsqueeze(x, c(np.array([1]))),
}
FLOAT: dict[str, Callable[..., str]] = {
    "Resize": lambda b, x, c: b.op.Resize(x, "", c(np.array([1, 1, 2, 2], np.float32)), mode="linear"),
    "ConvTranspose": lambda b, x, c: b.op.ConvTranspose(x, c(noise(8, 8, 2, 2))),
}


def noise(*shape: int) -> Array:
    """Uniform numbers around zero."""
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def one(case: Callable[..., str]) -> ModelProto:
    """A trunk of a convolution and then a case."""
    b = Builder()
    planes = b.op.Transpose(b.op.Cast(PIXELS, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    x = b.op.Conv(planes, b.constant(noise(8, 3, 3, 3) / 100), b.constant(noise(8)), pads=[1] * 4)
    answer = case(b, x, b.constant)
    nodes = [*b.nodes, helper.make_node("Identity", [answer], [LOGITS])]
    pixels = helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["N", 16, 16, 3])
    logits = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "one", [pixels], [logits], list(b.constants.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def converted(case: Callable[..., str], folder: Path) -> list[str]:
    """The tensors that ONNX Runtime makes float again on the way to the logits of a case in 8 bits."""
    photos = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    model = quantized(one(case), photos)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(folder / "optimized.onnx").graph.node
    return [n.input[0] for n in nodes if n.op_type == "DequantizeLinear" and LOGITS not in n.output]


def test_every_operator_of_the_table_is_proven() -> None:
    assert set(OPERATORS) == set(CASES)


@pytest.mark.parametrize("operator", CASES)
def test_the_operators_of_the_table_are_computed_on_integers(tmp_path, operator) -> None:
    assert operator in {node.op_type for node in one(CASES[operator]).graph.node}
    assert converted(CASES[operator], tmp_path) == []


@pytest.mark.parametrize("operator", FLOAT)
def test_others_would_only_be_converted_to_and_fro(tmp_path, monkeypatch, operator) -> None:
    monkeypatch.setattr(precision, "OPERATORS", (*OPERATORS, operator))
    assert converted(FLOAT[operator], tmp_path)


def test_the_tools_come_in_behind_the_session() -> None:
    """It tells ONNX Runtime to open no connection, which must be said before it is imported."""
    script = """
import os, sys
os.environ.pop("ORT_DISABLE_TELEMETRY", None)
told = []
sys.addaudithook(lambda event, of: of and of[0] == "onnxruntime" and told.append(dict(os.environ)))
import percept_models.export.precision
assert told[0]["ORT_DISABLE_TELEMETRY"] == "1"
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(precision.__file__).parents[3])


def grey(level: int) -> bytes:
    """A PNG of one level of grey."""
    return encoded(Image.new("RGB", (40, 30), (level,) * 3))


def levels(folder: Path, limit: int = 200) -> list[int]:
    """The grey levels of a folder's pictures."""
    return [int(picture[0, 0, 0]) for picture in pictures(folder, HOW, limit)]


def test_pictures_are_prepared_as_they_are_served(tmp_path: Path) -> None:
    """Upright, of the trunk's size and in whole numbers."""
    (tmp_path / "turned.jpg").write_bytes(encoded(marked((60, 80), (9, 9), 6), "JPEG", orientation=6, quality=95))
    (picture,) = pictures(tmp_path, HOW)
    assert picture.shape == (HOW.height, HOW.width, 3)
    assert picture.dtype == np.uint8
    red = picture[..., 0].astype(int) - picture[..., 1]
    assert red[:6, :6].mean() > 3 * red[-6:, -6:].mean() + 20


def test_pictures_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    """From folders inside the folder too; what is no image, or half of one, is passed over."""
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name, content in {
        "a.png": grey(1),
        "b/a.txt": b"an elephant",
        "b/c/d.png": grey(2),
        "b/half.png": grey(3)[:60],
        "empty": b"",
        "z.bmp": grey(4),
    }.items():
        (tmp_path / name).write_bytes(content)
    assert levels(tmp_path) == [1, 2, 4]


def test_pictures_are_spread_evenly(tmp_path: Path) -> None:
    """With a text beside every image too, as annotations are."""
    for level in range(60):
        (tmp_path / f"{level:03}.png").write_bytes(grey(level))
    assert levels(tmp_path, 6) == [0, 10, 20, 30, 40, 50]
    assert levels(tmp_path, 60) == levels(tmp_path) == list(range(60))
    for level in range(60):
        (tmp_path / f"{level:03}.json").write_text("{}")
    assert levels(tmp_path, 6) == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize("name", ["folder", "text", "absent"])
def test_a_folder_without_images_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.png").write_text("an elephant")
    with pytest.raises(BundleError, match=f"{name} holds no image"):
        next(pictures(tmp_path / name, HOW))


@pytest.fixture(scope="module", params=["cifar10", "clothing"])
def built_in(request: pytest.FixtureRequest) -> Path:
    return BUILT_IN / request.param / "1"


def training(name: str, data: Path, folder: Path) -> Path:
    """A folder with the images that a built-in network was trained on: of CIFAR-10 every 250th."""
    if name == "clothing":
        for photo in (data / "train.txt").read_text().split():
            (folder / f"{photo}.jpg").symlink_to(data / "images" / f"{photo}.jpg")
        return folder
    with np.load(data / "train.npz") as split:
        ends, jpeg = split["offset"], split["jpeg"]
    for number, (begin, end) in list(enumerate(pairwise(ends)))[::250]:
        (folder / f"{number:05}.jpg").write_bytes(jpeg[begin:end].tobytes())
    return folder


def answers(trunk: ModelProto) -> Callable[[Tensor], Tensor]:
    """A trunk in memory as a recipe measures it."""
    session = Session(trunk.SerializeToString())

    def predict(pixels: Tensor) -> Tensor:
        rows = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        return torch.from_numpy(session.run({PIXELS: rows}, [LOGITS])[LOGITS])

    return predict


@pytest.mark.prove
def test_int8_keeps_the_accuracy_within_a_point(built_in: Path, shared: Path, tmp_path: Path) -> None:
    """Of the built-in bundles on their test splits, calibrated on 200 images of the training split."""
    manifest = read(built_in)
    data = shared / "data" / manifest.name
    photos = pictures(training(manifest.name, data, tmp_path), manifest.preprocessing)
    trunk = quantized(onnx.load(built_in / manifest.trunk), photos)
    found = RECIPES[manifest.name].measure(answers(trunk), data)
    assert found == pytest.approx(manifest.provenance.metrics, abs=0.01)


@pytest.mark.prove
def test_half_gives_the_same_predictions(built_in: Path, shared: Path) -> None:
    """The same class for more than 999 of 1000 images or pixels of the test splits."""
    manifest = read(built_in)
    trunk = onnx.load(built_in / manifest.trunk)
    whole, rounded = answers(trunk), answers(half(trunk))
    agreed: list[Tensor] = []

    def both(pixels: Tensor) -> Tensor:
        truth, found = whole(pixels), rounded(pixels)
        agreed.append((truth.argmax(1) == found.argmax(1)).flatten())
        return found

    found = RECIPES[manifest.name].measure(both, shared / "data" / manifest.name)
    assert torch.cat(agreed).float().mean() > 0.999
    assert found == pytest.approx(manifest.provenance.metrics, abs=1e-3)
