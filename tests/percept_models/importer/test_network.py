"""Files from strangers: seven real networks, and small graphs with one oddity each."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from PIL import Image

from percept.bundle.manifest import Name, Preprocessing
from percept.errors import BundleError
from percept.imaging.decode import geometry, prepare
from percept.runtime.session import Session
from percept_models.autodiff.reverse import tail
from percept_models.graph.reader import OPSET, Array, Graph, run
from percept_models.importer.model_file import messages
from percept_models.importer.naming import RESERVED
from percept_models.importer.network import Foreign, read, trunk
from tests.percept_models.importer.graphs import POOL, conv, floats, logits_of, node, operators, pooled, written

# The seven networks of the shared assets


def how(size: int, mean: Sequence[float], std: Sequence[float], channels: str = "RGB", short: int = 0) -> Preprocessing:
    """The preprocessing of a square picture."""
    rule = {"resize": "crop", "short_side": short} if short else {}
    return Preprocessing.model_validate(
        {"height": size, "width": size, "mean": mean, "std": std, "channels": channels, **rule}
    )


HALF = (127.5, 127.5, 127.5)
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
SINET = ((102.890434, 111.25247, 126.91212), tuple(255 * s for s in (62.93292, 62.82138, 66.355705)))


@dataclass(frozen=True)
class Row:
    """A file: its preprocessing, an early and the last layer, what was noted, the tensor of its logits."""

    how: Preprocessing
    early: str
    last: str
    notes: Sequence[str] = ("opset 13 was converted to 18",)
    logits: str = "logits"


FILES = {
    "tf2_mobilenet_v2_1.0_224": Row(how(224, HALF, HALF, short=256), "clip_6", "clip_271"),
    "squeezenet1.0_deepcompression_227": Row(
        how(227, (104, 117, 123), (1, 1, 1), "BGR", short=256), "fire2.concat", "fire9.concat"
    ),
    "mobilenet_v1_0.25_128": Row(how(128, HALF, HALF, short=146), "clip_6", "clip_162"),
    "cifar10_resnet20": Row(how(32, *IMAGENET), "layer1.layer1.0.Relu_1", "layer3.layer3.2.Relu_1"),
    "deeplabv3_mnv2_dm05_pascal_513": Row(
        how(513, HALF, HALF),
        "clip_6",
        "concat_277",
        ("opset 13 was converted to 18", "the batch fixed at 1 was made symbolic"),
    ),
    "prisma_nchw": Row(
        how(256, (0, 0, 0), (255, 255, 255)),
        "add_55.add",
        "add_80.add",
        (
            "the weights were taken off the list of inputs",
            "opset 7 was converted to 18",
            "the Sigmoid at the end was cut off",
            "the one channel of the output became two classes by a channel of zeros before it",
        ),
        logits="convolution_output",
    ),
    "SINet": Row(
        how(320, *SINET, "BGR"),
        "prelu_456",
        "prelu_741",
        (
            "the weights were taken off the list of inputs",
            "opset 12 was converted to 18",
            "the batch fixed at 1 was made symbolic",
        ),
        logits="classifier/1",
    ),
}
CLASSIFIERS = [name for name in FILES if FILES[name].last.startswith(("clip", "fire", "layer"))]


@cache
def network(shared: Path, name: str) -> Foreign:
    """A file of the shared assets, read."""
    return read(shared / "models" / f"{name}.onnx")


@cache
def photos(shared: Path, name: str, count: int) -> Array:
    """Photos of different classes as a file's network takes them, uint8 [count,H,W,3]."""
    rule = FILES[name].how
    files = sorted((shared / "images" / "imagenet").iterdir())[:: 100 // count]
    loaded = [Image.open(file).convert("RGB") for file in files]
    return np.stack([prepare(photo, geometry(photo.size, rule), rule) for photo in loaded])


def original(shared: Path, name: str, pixels: Array) -> Array:
    """What the file itself gives for pictures, one by one, normalised here in float64."""
    row = FILES[name]
    model = onnx.load(shared / "models" / f"{name}.onnx")
    if row.logits not in {output.name for output in model.graph.output}:
        model.graph.output.append(helper.make_tensor_value_info(row.logits, TensorProto.FLOAT, None))
    session = Session(model.SerializeToString())
    x = pixels[..., ::-1] if row.how.channels == "BGR" else pixels
    x = ((x - np.array(row.how.mean)) / row.how.std).transpose(0, 3, 1, 2).astype(np.float32)
    (image,) = session.inputs
    return np.concatenate([session.run({image: one[None]}, [row.logits])[row.logits] for one in x])


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_the_same_logits_for_a_batch_as_for_each_picture(shared: Path, name: str) -> None:
    foreign, pixels = network(shared, name), photos(shared, name, 3)
    expected = original(shared, name, pixels)
    found = run(trunk(foreign, FILES[name].how), {"pixels": pixels})["logits"]
    if expected.shape[1] == 1:
        assert not found[:, 0].any()
        found = found[:, 1:]
    assert found.shape == expected.shape
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())
    assert len({y.tobytes() for y in found}) == len(pixels)
    assert list(foreign.notes) == list(FILES[name].notes)
    assert (foreign.layout, foreign.activation) == ("NCHW", "softmax")


@pytest.mark.parametrize("count", [10, pytest.param(100, marks=pytest.mark.prove)])
@pytest.mark.parametrize("name", FILES)
def test_the_classes_of_photos_are_the_files_own(shared: Path, name: str, count: int) -> None:
    """The same top class for every photo, the same class for nearly every pixel."""
    pixels = photos(shared, name, count)
    model = Session(trunk(network(shared, name), FILES[name].how).SerializeToString())
    same = []
    for five in np.split(pixels, count // 5):
        expected = original(shared, name, five)
        classes = expected.argmax(1) if expected.shape[1] > 1 else expected[:, 0] > 0
        same.append(model.run({"pixels": five}, ["logits"])["logits"].argmax(1) == classes)
    assert np.all(same) if name in CLASSIFIERS else np.mean(same) > 0.999


@pytest.mark.parametrize("name", FILES)
def test_the_trunk_of_a_file_is_all_known_and_tells_nothing_of_its_maker(shared: Path, name: str) -> None:
    """Every tensor has a name for a manifest and all sizes but the batch; nothing is left for a person to read."""
    model = trunk(network(shared, name), FILES[name].how)
    onnx.checker.check_model(model, full_check=True)
    graph = Graph(model)
    pattern = Name.__metadata__[0].metadata[0].pattern
    for made in graph.nodes:
        (tensor,) = made.output
        assert re.match(pattern, tensor), tensor
        assert graph.shapes[tensor][:1] == (None,), tensor
        assert None not in graph.shapes[tensor][1:], tensor
        assert tensor not in RESERVED or tensor.startswith(("logits", "image", "pixels."))
    assert len({name.lower() for name in graph.shapes}) == len(graph.shapes)
    assert model.opset_import[0].version == OPSET
    assert graph.shapes["pixels"] == (None, FILES[name].how.height, FILES[name].how.width, 3)
    assert graph.shapes["image"] == (None, 3, FILES[name].how.height, FILES[name].how.width)
    assert {model.producer_name, model.producer_version, model.domain, model.graph.name} == {"", "network"}
    for part in messages(model):
        assert not getattr(part, "doc_string", ""), part
        assert not getattr(part, "metadata_props", ()), part


@pytest.mark.parametrize("name", FILES)
def test_the_tails_of_a_file_have_the_right_gradient(shared: Path, name: str) -> None:
    """g . D is the slope of the seeded logits along D, by central differences in float32, over pictures and seeds."""
    row = FILES[name]
    graph = Graph(trunk(network(shared, name), row.how))
    made, names = tail(graph, row.last)
    pixels = photos(shared, name, 3)
    found = run(with_outputs(graph.model, [row.last, *names]), {"pixels": pixels})
    a, rest, rng = found[row.last], {name: found[name] for name in names}, np.random.default_rng(0)
    session = Session(made.SerializeToString())
    along, slopes = [], []
    strongest = np.argsort(-found["logits"].reshape(len(pixels), found["logits"].shape[1], -1).mean((0, 2)))
    for k in [*strongest[:2], *strongest[:2]]:
        seed = np.zeros_like(found["logits"])
        seed[:, k] = 1 / seed[0, 0].size
        d = rng.standard_normal(a.shape).astype(np.float32) * np.abs(a).mean() * np.float32(3e-3)

        def logits(x: Array, seed: Array = seed) -> Array:
            y = session.run({"activations": x, "seed": seed, **rest}, ["logits"])["logits"]
            return (y.astype(np.float64) * seed).reshape(len(y), -1).sum(1)

        answer = session.run({"activations": a, "seed": seed, **rest}, ["gradients", "logits"])
        np.testing.assert_allclose(answer["logits"], found["logits"], atol=1e-4 * np.abs(found["logits"]).max())
        along.append((answer["gradients"].astype(np.float64) * d).reshape(len(a), -1).sum(1))
        slopes.append((logits(a + d) - logits(a - d)) / 2)
    assert np.abs(np.subtract(along, slopes)).sum() < 0.03 * np.abs(slopes).sum()
    assert np.abs(slopes).sum() > 0


@pytest.mark.parametrize("name", FILES)
def test_an_early_layer_of_a_file_has_a_tail_too(shared: Path, name: str) -> None:
    row = FILES[name]
    graph = Graph(trunk(network(shared, name), row.how))
    made, names = tail(graph, row.early)
    found = run(with_outputs(graph.model, [row.early, *names]), {"pixels": photos(shared, name, 2)})
    feeds = {name: found[name] for name in names} | {"activations": found[row.early]}
    answer = run(made, feeds | {"seed": np.ones_like(found["logits"])})
    np.testing.assert_allclose(answer["logits"], found["logits"], atol=1e-4 * np.abs(found["logits"]).max())
    assert answer["gradients"].shape == found[row.early].shape
    assert np.isfinite(answer["gradients"]).all()
    assert answer["gradients"].any()


def with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """A model that gives these tensors too."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return copy


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 20, 22])
def test_any_version_of_the_operators_becomes_one(tmp_path: Path, opset: int) -> None:
    foreign = read(written(tmp_path, [conv("x", "c"), *POOL], opset=opset))
    assert [o.version for o in foreign.model.opset_import] == [OPSET]
    assert foreign.notes == (() if opset == OPSET else (f"opset {opset} was converted to {OPSET}",))


def test_an_operator_that_is_newer_is_written_by_older_ones(tmp_path: Path) -> None:
    foreign = read(written(tmp_path, [conv("x", "c"), node("Gelu", "c", "g"), *pooled("g")], opset=20))
    assert "Erf" in operators(foreign)


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization_has_gradients(tmp_path: Path, opset: int) -> None:
    """It is written by other operators: ONNX says no shape of it, and the older one has weights for groups only."""
    norm = node("GroupNormalization", "c s b", "g", num_groups=2)
    several = 2 if opset < 21 else 4
    weights = [floats("s", several, seed=1), floats("b", several, seed=2)]
    foreign = read(written(tmp_path, [conv("x", "c"), norm, *pooled("g")], weights, opset=opset))
    assert "GroupNormalization" not in operators(foreign)
    graph = Graph(foreign.model)
    made, crossing = tail(graph, "c")
    assert crossing == ()
    A = np.random.default_rng(3).standard_normal((2, 4, 8, 6)).astype(np.float32)
    scale, bias = (torch.tensor(numpy_helper.to_array(w)).repeat_interleave(4 // several) for w in weights)
    x = torch.from_numpy(A).requires_grad_(True)
    y = torch.nn.functional.group_norm(x, 2, scale, bias).mean((2, 3))
    y.square().sum().backward()
    found = run(made, {"activations": A, "seed": 2 * y.detach().numpy()})
    np.testing.assert_allclose(found["logits"], y.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(found["gradients"], x.grad.numpy(), atol=1e-5)


def test_an_operator_that_only_grew_types_is_taken_as_it_was(tmp_path: Path) -> None:
    """The converter knows no way back for ConstantOfShape."""
    nodes = [
        conv("x", "c"),
        node("Shape", "c", "s"),
        node("ConstantOfShape", "s", "zero"),
        node("Add", "c zero", "a"),
        *pooled("a"),
    ]
    assert read(written(tmp_path, nodes, opset=21)).notes == ("opset 21 was converted to 18",)


def test_height_and_width_that_are_open_are_set(tmp_path: Path) -> None:
    file = written(tmp_path, [conv("x", "c"), *POOL], image=("N", 3, None, "w"))
    assert read(file, (16, 10)).size == (16, 10)
    with pytest.raises(
        BundleError, match=r"x float \[\?,3,\?,\?\] leaves height and width open: say which with --size"
    ):
        read(file)


def test_another_size_than_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="takes pictures of 8x6 and no other, not of 8x8"):
        read(written(tmp_path, [conv("x", "c"), *POOL]), (8, 8))


def test_one_of_several_outputs_is_picked_by_name(tmp_path: Path) -> None:
    """So is a tensor inside; what is not needed for it is gone."""
    boxes = node("Relu", "c", "boxes")
    file = written(tmp_path, [conv("x", "c"), boxes, *POOL], outputs=("boxes", "y"))
    with pytest.raises(
        BundleError, match=r"2 outputs .*: --output NAME picks it; .*boxes float \[1,4,8,6\], y float \[1,4\]"
    ):
        read(file)
    assert logits_of(read(file, output="y")).shape == (3, 4)
    assert operators(read(file, output="y")) == ["Conv", "GlobalAveragePool", "Flatten"]
    assert logits_of(read(file, output="c")).shape == (3, 4, 8, 6)
    with pytest.raises(BundleError, match="no tensor 'scores'; the outputs are boxes"):
        read(file, output="scores")


REFUSED = {
    "no classes": ([node("ReduceMean", "c", "y", axes=[1], keepdims=0)], r"\[N,8,6\] is neither \[N,K\] nor"),
    "integers": ([node("ArgMax", "c", "y", axis=1)], "not made of float32"),
    "no rows": ([node("ReduceMean", "c", "y", axes=[0], keepdims=0)], "no row for each picture"),
    "a size that depends": ([node("NonZero", "c", "z"), node("Cast", "z", "y", to=1)], "no row for each"),
    "randomness": ([node("RandomNormalLike", "c", "n"), *pooled("n")], "a number is"),
    "not a number": ([node("Sub", "c c", "z"), node("Div", "z z", "d"), *pooled("d")], "not finite"),
    "a kernel too large": ([node("MaxPool", "c", "y", kernel_shape=[99, 99])], "."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_output_that_is_no_logits_is_refused(tmp_path: Path, case: str) -> None:
    nodes, why = REFUSED[case]
    with pytest.raises(BundleError, match=why):
        read(written(tmp_path, [conv("x", "c"), *nodes]))


INPUTS = {
    "grey": {"image": ("N", 1, 8, 8)},
    "a vector": {"image": ("N", 3)},
    "half precision": {"kind": TensorProto.FLOAT16},
    "bytes": {"kind": TensorProto.UINT8, "image": ("N", 8, 8, 3)},
}


@pytest.mark.parametrize("case", INPUTS)
def test_an_input_that_is_no_picture_in_float32_is_refused(tmp_path: Path, case: str) -> None:
    with pytest.raises(BundleError, match=r"the input x .* is no picture of three channels in float32"):
        read(written(tmp_path, [conv("x", "c"), *POOL], **INPUTS[case]))


def test_two_inputs_are_refused_and_listed(tmp_path: Path) -> None:
    more = [helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1])]
    with pytest.raises(BundleError, match=r"one image is needed, .*: x float \[\?,3,8,6\], scale float \[1\]"):
        read(written(tmp_path, [conv("x", "c"), *POOL], inputs=more))


def branch(operator: str, output: str) -> onnx.GraphProto:
    """A branch of an If that reads c."""
    made = node(operator, "c", output)
    return helper.make_graph([made], operator, [], [helper.make_empty_tensor_value_info(output)])


def chosen(condition: str) -> NodeProto:
    """An If between two branches."""
    return node("If", condition, "i", then_branch=branch("Relu", "a"), else_branch=branch("Neg", "b"))


def test_a_choice_that_is_always_the_same_is_made(tmp_path: Path) -> None:
    yes = numpy_helper.from_array(np.array(True), "yes")
    assert "Relu" in operators(read(written(tmp_path, [conv("x", "c"), chosen("yes"), *pooled("i")], [yes])))


def test_a_choice_at_run_time_is_refused(tmp_path: Path) -> None:
    nodes = [conv("x", "c"), node("ReduceMax", "c", "m", keepdims=0), node("Cast", "m", "q", to=TensorProto.BOOL)]
    with pytest.raises(BundleError, match=r"decides at run time what to compute \(If\)"):
        read(written(tmp_path, [*nodes, chosen("q"), *pooled("i")]))


def test_what_was_for_training_is_set_to_inference(tmp_path: Path) -> None:
    statistics = [
        numpy_helper.from_array(np.full(4, v, np.float32), n) for n, v in zip("sbmv", (1, 2, 3, 4), strict=True)
    ]
    yes = numpy_helper.from_array(np.array(True), "yes")
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    nodes = [
        conv("x", "c"),
        node("BatchNormalization", "c s b m v", "n mean variance", training_mode=1),
        node("Dropout", "n half yes", "d"),
        *pooled("d"),
    ]
    foreign = read(written(tmp_path, nodes, [*statistics, yes, half], opset=15))
    assert foreign.notes == ("a batch norm in training mode was set to inference", "opset 15 was converted to 18")
    assert operators(foreign) == ["Conv", "BatchNormalization", "GlobalAveragePool", "Flatten"]


def test_pictures_of_another_size_than_the_networks_are_refused(tmp_path: Path) -> None:
    foreign = read(written(tmp_path, [conv("x", "c"), *POOL]))
    with pytest.raises(BundleError, match="takes pictures of 8x6, and the preprocessing gives 8x8"):
        trunk(foreign, Preprocessing(height=8, width=8))
