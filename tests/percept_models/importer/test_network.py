"""Files of other exporters: seven real networks, and small graphs with one peculiarity each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from PIL import Image
from pydantic import TypeAdapter

from percept.bundle.manifest import Name
from percept.bundle.preprocessing import Preprocessing
from percept.errors import BundleError
from percept.imaging.geometry import compute_geometry
from percept.imaging.preprocess import prepare
from percept.runtime.session import Session
from percept_models.autodiff.tail import build_tail
from percept_models.graph.builder import OPSET
from percept_models.graph.execution import run
from percept_models.graph.reader import Array, Graph
from percept_models.importer.model_file import iterate_messages
from percept_models.importer.naming import RESERVED
from percept_models.importer.network import ImportedNetwork, import_network
from percept_models.importer.trunk import build_trunk
from tests.percept_models.importer.graphs import node, operators, pool_and_flatten, write_classifier
from tests.percept_models.onnx_models import with_outputs

# The seven networks among the shared assets.


def square(
    size: int, mean: Sequence[float], std: Sequence[float], channels: str = "RGB", short_side: int = 0
) -> Preprocessing:
    """The preprocessing of a square image, cropped where a short side is given."""
    resize = {"resize": "crop", "short_side": short_side} if short_side else {}
    return Preprocessing.model_validate(
        {"height": size, "width": size, "mean": mean, "std": std, "channels": channels, **resize}
    )


HALF = (127.5, 127.5, 127.5)
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
SINET = ((102.890434, 111.25247, 126.91212), tuple(255 * s for s in (62.93292, 62.82138, 66.355705)))


@dataclass(frozen=True)
class Expected:
    """A file's preprocessing, an early layer and the last one, the notes of its import, and its logits' name."""

    preprocessing: Preprocessing
    early: str
    last: str
    notes: Sequence[str] = ("opset 13 was converted to 18",)
    logits: str = "logits"


FILES = {
    "tf2_mobilenet_v2_1.0_224": Expected(square(224, HALF, HALF, short_side=256), "clip_6", "clip_271"),
    "squeezenet1.0_deepcompression_227": Expected(
        square(227, (104, 117, 123), (1, 1, 1), "BGR", short_side=256), "fire2.concat", "fire9.concat"
    ),
    "mobilenet_v1_0.25_128": Expected(square(128, HALF, HALF, short_side=146), "clip_6", "clip_162"),
    "cifar10_resnet20": Expected(square(32, *IMAGENET), "layer1.layer1.0.Relu_1", "layer3.layer3.2.Relu_1"),
    "deeplabv3_mnv2_dm05_pascal_513": Expected(
        square(513, HALF, HALF),
        "clip_6",
        "concat_277",
        ("opset 13 was converted to 18", "the batch fixed at 1 was made symbolic"),
    ),
    "prisma_nchw": Expected(
        square(256, (0, 0, 0), (255, 255, 255)),
        "add_55.add",
        "add_80.add",
        (
            "the weights were removed from the list of inputs",
            "opset 7 was converted to 18",
            "the Sigmoid at the end was removed",
            "a class whose logit is 0 was put before the only one: the softmax of both is its sigmoid",
        ),
        logits="convolution_output",
    ),
    "SINet": Expected(
        square(320, *SINET, "BGR"),
        "prelu_456",
        "prelu_741",
        (
            "the weights were removed from the list of inputs",
            "opset 12 was converted to 18",
            "the batch fixed at 1 was made symbolic",
        ),
        logits="classifier/1",
    ),
}
CLASSIFIERS = [name for name in FILES if FILES[name].last.startswith(("clip", "fire", "layer"))]


@cache
def imported(shared: Path, name: str) -> ImportedNetwork:
    """An imported file of the shared assets."""
    return import_network(shared / "models" / f"{name}.onnx")


def trunk_of(shared: Path, name: str) -> ModelProto:
    """The trunk of an imported file."""
    return build_trunk(imported(shared, name), FILES[name].preprocessing)


@cache
def photos(shared: Path, name: str, count: int) -> Array:
    """Photos of different classes, prepared for a file's network, uint8 [count,H,W,3]."""
    preprocessing = FILES[name].preprocessing
    files = sorted((shared / "images" / "imagenet").iterdir())[:: 100 // count]
    loaded = [Image.open(file).convert("RGB") for file in files]
    return np.stack([prepare(photo, compute_geometry(photo.size, preprocessing), preprocessing) for photo in loaded])


def logits_of_file(shared: Path, name: str, pixels: Array) -> Array:
    """The logits of the file itself for each image alone, normalized here in float64."""
    expected = FILES[name]
    model = onnx.load(shared / "models" / f"{name}.onnx")
    if expected.logits not in {output.name for output in model.graph.output}:
        model.graph.output.append(helper.make_tensor_value_info(expected.logits, TensorProto.FLOAT, None))
    session = Session(model.SerializeToString())
    preprocessing = expected.preprocessing
    x = pixels[..., ::-1] if preprocessing.channels == "BGR" else pixels
    x = ((x - np.array(preprocessing.mean)) / preprocessing.std).transpose(0, 3, 1, 2).astype(np.float32)
    (feed,) = session.inputs
    return np.concatenate([session.run({feed: image[None]}, [expected.logits])[expected.logits] for image in x])


@pytest.mark.parametrize("name", FILES)
def test_file_gives_same_logits_in_a_batch(shared: Path, name: str) -> None:
    network, pixels = imported(shared, name), photos(shared, name, 3)
    expected = logits_of_file(shared, name, pixels)
    found = run(trunk_of(shared, name), {"pixels": pixels})["logits"]
    if expected.shape[1] == 1:
        assert not found[:, 0].any()
        found = found[:, 1:]
    assert found.shape == expected.shape
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())
    assert len({y.tobytes() for y in found}) == len(pixels)
    assert list(network.notes) == list(FILES[name].notes)
    assert (network.layout, network.activation) == ("NCHW", "softmax")


@pytest.mark.parametrize("count", [10, pytest.param(100, marks=pytest.mark.prove)])
@pytest.mark.parametrize("name", FILES)
def test_file_gives_same_classes_of_photos(shared: Path, name: str, count: int) -> None:
    """The same top class for every photo, and the same class for 99.9 % of the pixels."""
    pixels = photos(shared, name, count)
    session = Session(trunk_of(shared, name).SerializeToString())
    same = []
    for five in np.split(pixels, count // 5):
        expected = logits_of_file(shared, name, five)
        classes = expected.argmax(1) if expected.shape[1] > 1 else expected[:, 0] > 0
        same.append(session.run({"pixels": five}, ["logits"])["logits"].argmax(1) == classes)
    assert np.all(same) if name in CLASSIFIERS else np.mean(same) > 0.999


@pytest.mark.parametrize("name", FILES)
def test_trunk_of_file_is_complete_and_anonymous(shared: Path, name: str) -> None:
    """Every tensor has a name for a manifest and all sizes but the batch; no text of the exporter is left."""
    model = trunk_of(shared, name)
    onnx.checker.check_model(model, full_check=True)
    graph = Graph(model)
    name_in_manifest = TypeAdapter(Name)
    for producer in graph.nodes:
        (tensor,) = producer.output
        name_in_manifest.validate_python(tensor)
        assert graph.shapes[tensor][:1] == (None,), tensor
        assert None not in graph.shapes[tensor][1:], tensor
        assert tensor not in RESERVED or tensor.startswith(("logits", "image", "pixels."))
    assert len({name.lower() for name in graph.shapes}) == len(graph.shapes)
    assert model.opset_import[0].version == OPSET
    preprocessing = FILES[name].preprocessing
    assert graph.shapes["pixels"] == (None, preprocessing.height, preprocessing.width, 3)
    assert graph.shapes["image"] == (None, 3, preprocessing.height, preprocessing.width)
    assert {model.producer_name, model.producer_version, model.domain, model.graph.name} == {"", "network"}
    for message in iterate_messages(model):
        assert not getattr(message, "doc_string", ""), message
        assert not getattr(message, "metadata_props", ()), message


@pytest.mark.parametrize("name", FILES)
def test_tail_of_file_has_right_gradient(shared: Path, name: str) -> None:
    """g . D is the slope of the seeded logits along D, by central differences in float32, over images and seeds."""
    layer = FILES[name].last
    graph = Graph(trunk_of(shared, name))
    tail, crossing = build_tail(graph, layer)
    pixels = photos(shared, name, 3)
    found = run(with_outputs(graph.model, [layer, *crossing]), {"pixels": pixels})
    A, others, rng = found[layer], {name: found[name] for name in crossing}, np.random.default_rng(0)
    session = Session(tail.SerializeToString())
    derivatives, slopes = [], []
    strongest = np.argsort(-found["logits"].reshape(len(pixels), found["logits"].shape[1], -1).mean((0, 2)))
    for k in [*strongest[:2], *strongest[:2]]:
        seed = np.zeros_like(found["logits"])
        seed[:, k] = 1 / seed[0, 0].size
        D = rng.standard_normal(A.shape).astype(np.float32) * np.abs(A).mean() * np.float32(3e-3)

        def seeded_logits(x: Array, seed: Array = seed) -> Array:
            y = session.run({"activations": x, "seed": seed, **others}, ["logits"])["logits"]
            return (y.astype(np.float64) * seed).reshape(len(y), -1).sum(1)

        outputs = session.run({"activations": A, "seed": seed, **others}, ["gradients", "logits"])
        np.testing.assert_allclose(outputs["logits"], found["logits"], atol=1e-4 * np.abs(found["logits"]).max())
        derivatives.append((outputs["gradients"].astype(np.float64) * D).reshape(len(A), -1).sum(1))
        slopes.append((seeded_logits(A + D) - seeded_logits(A - D)) / 2)
    assert np.abs(np.subtract(derivatives, slopes)).sum() < 0.03 * np.abs(slopes).sum()
    assert np.abs(slopes).sum() > 0


@pytest.mark.parametrize("name", FILES)
def test_early_layer_of_file_has_tail(shared: Path, name: str) -> None:
    layer = FILES[name].early
    graph = Graph(trunk_of(shared, name))
    tail, crossing = build_tail(graph, layer)
    found = run(with_outputs(graph.model, [layer, *crossing]), {"pixels": photos(shared, name, 2)})
    feeds = {name: found[name] for name in crossing} | {"activations": found[layer]}
    outputs = run(tail, feeds | {"seed": np.ones_like(found["logits"])})
    np.testing.assert_allclose(outputs["logits"], found["logits"], atol=1e-4 * np.abs(found["logits"]).max())
    assert outputs["gradients"].shape == found[layer].shape
    assert np.isfinite(outputs["gradients"]).all()
    assert outputs["gradients"].any()


# Small graphs.


def branch(operator: str, output: str) -> onnx.GraphProto:
    """A branch of an If that reads c."""
    return helper.make_graph([node(operator, "c", output)], operator, [], [helper.make_empty_tensor_value_info(output)])


def if_node(condition: str) -> NodeProto:
    """An If between two branches."""
    return node("If", condition, "i", then_branch=branch("Relu", "a"), else_branch=branch("Neg", "b"))


def test_if_with_constant_condition_is_resolved(tmp_path: Path) -> None:
    yes = numpy_helper.from_array(np.array(True), "yes")
    file = write_classifier(tmp_path, if_node("yes"), *pool_and_flatten("i"), weights=[yes])
    assert "Relu" in operators(import_network(file))


def test_control_flow_at_run_time_is_rejected(tmp_path: Path) -> None:
    nodes = [node("ReduceMax", "c", "m", keepdims=0), node("Cast", "m", "q", to=TensorProto.BOOL), if_node("q")]
    with pytest.raises(BundleError, match=r"decides at run time what to compute \(If\)"):
        import_network(write_classifier(tmp_path, *nodes, *pool_and_flatten("i")))


def test_training_mode_is_set_to_inference(tmp_path: Path) -> None:
    statistics = [
        numpy_helper.from_array(np.full(4, v, np.float32), n) for n, v in zip("sbmv", (1, 2, 3, 4), strict=True)
    ]
    yes = numpy_helper.from_array(np.array(True), "yes")
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    nodes = [
        node("BatchNormalization", "c s b m v", "n mean variance", training_mode=1),
        node("Dropout", "n half yes", "d"),
        *pool_and_flatten("d"),
    ]
    network = import_network(write_classifier(tmp_path, *nodes, weights=[*statistics, yes, half], opset=15))
    assert network.notes == ("a batch norm in training mode was set to inference", "opset 15 was converted to 18")
    assert operators(network) == ["Conv", "BatchNormalization", "GlobalAveragePool", "Flatten"]
