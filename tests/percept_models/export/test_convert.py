"""`percept export`: what it guesses, what it obeys, what it refuses, and that nothing is left behind then."""

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from percept.bundle.integrity import read_manifest
from percept.bundle.manifest import Preprocessing
from percept.errors import BundleError
from percept.runtime.network import Network, TrunkInput
from percept.server.cli import main
from percept_models.export.convert import convert
from percept_models.export.options import ExportOptions
from percept_models.export.source_network import merge_preprocessing
from percept_models.export.weights import read_parameters
from percept_models.graph.execution import run
from percept_models.sources.trunk import LOGITS, PIXELS
from tests.percept_models.networks import Classifier, Pyramid, SineClassifier

HERE = "tests.percept_models.export.test_convert"
SIZE = ("--size", "32x24")


def classifier() -> nn.Module:
    """Five classes."""
    return Classifier()


def pyramid() -> nn.Module:
    """Three classes of pixels."""
    return Pyramid()


def portrait() -> nn.Module:
    """One channel of logits: something, or not."""
    return Pyramid(1)


def strange() -> nn.Module:
    """An operator without a rule between its two stages."""
    return SineClassifier()


class Boxes(nn.Module):
    """What a detector gives."""

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        """Compute the output."""
        return [{"boxes": x.mean((1, 2))}]


class Vectors(nn.Module):
    """Three dimensions of output."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return x.mean(1)


def detector() -> nn.Module:
    """Not for Percept."""
    return Boxes()


def vectors() -> nn.Module:
    """Not for Percept."""
    return Vectors()


@pytest.fixture
def percept(tmp_path: Path) -> Callable[..., int]:
    """`percept export` into a new folder."""

    def run_it(source: str, *more: str, name: str = "mine") -> int:
        return main(["export", source, "--name", name, "--out", str(tmp_path / "out"), *more])

    return run_it


def left(tmp_path: Path) -> list[str]:
    """What stands in the folder of bundles, hidden or not."""
    return sorted(file.name for file in (tmp_path / "out").rglob("*"))


def test_every_guess_is_said(tmp_path: Path, percept: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """With the option by which it can be said otherwise; then comes the proof and the folder."""
    assert percept(f"{HERE}:classifier", *SIZE) == 0
    printed = capsys.readouterr().out
    for guess in ("--resize", "--channels", "--mean", "--std", "--labels", "--layers", "--cam-layer", "--activation"):
        assert f"guessed: {guess}" in printed
    assert "guessed: --size" not in printed
    assert "stage2 gradients" in printed
    assert printed.splitlines()[-1] == str(tmp_path / "out" / "mine" / "1")
    manifest = read_manifest(tmp_path / "out" / "mine" / "1")
    assert manifest.labels == tuple(f"class {k}" for k in range(5))
    assert [layer.name for layer in manifest.layers] == ["image", "stem.1", "stage1", "stage2"]
    assert manifest.cam_layer == "stage2"
    assert manifest.provenance.source == f"{HERE}:classifier"


def test_what_is_said_is_done(tmp_path: Path, percept: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """Labels, layers, the layer for CAM, preprocessing, version and licence."""
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({str(k): name for k, name in enumerate("abcba")}))
    said = (
        *("--version", "7", "--labels", str(labels), "--license", "MIT", "--activation", "sigmoid"),
        *("--layers", "stem", "--cam-layer", "stage1", "--channels", "bgr", "--crop", "40"),
        *("--mean", "0.5", "--std", "0.5,0.25,1", "--interpolation", "bicubic", "--size", "32x24"),
    )
    assert percept(f"{HERE}:classifier", *said) == 0
    assert "guessed" not in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "out" / "mine" / "7")
    how = manifest.preprocessing
    assert manifest.labels == ("a (0)", "b (1)", "c", "b (3)", "a (4)")
    assert ([layer.name for layer in manifest.layers], manifest.cam_layer) == (["image", "stem", "stage1"], "stage1")
    assert (how.mean, how.std, how.channels) == ((127.5, 127.5, 127.5), (127.5, 63.75, 255.0), "BGR")
    assert (how.resize, how.short_side, how.interpolation) == ("crop", 40, "bicubic")
    assert (manifest.activation, manifest.provenance.license) == ("sigmoid", "MIT")


def test_mean_and_std_beyond_one_are_meant_for_bytes(tmp_path: Path, percept: Callable[..., int]) -> None:
    """As Caffe's networks have them."""
    assert percept(f"{HERE}:classifier", *SIZE, "--mean", "104,117,123", "--std", "1") == 0
    how = read_manifest(tmp_path / "out" / "mine" / "1").preprocessing
    assert (how.mean, how.std) == ((104, 117, 123), (1, 1, 1))


def test_a_bundle_is_served_and_verified_again(tmp_path: Path, percept: Callable[..., int]) -> None:
    """Against the source that its manifest names, by its own weights; and against others it fails."""
    assert percept(f"{HERE}:pyramid", *SIZE) == 0
    folder = tmp_path / "out" / "mine" / "1"
    network = Network(folder, "cpu", 1)
    layer = network.manifest.layers[0]
    (row,) = network.run_trunk([TrunkInput(np.zeros((32, 24, 3), np.uint8), network.outputs_for_gradients(layer))])
    assert network.compute_gradients(layer, row, np.ones(network.manifest.logits, np.float32)).any()
    assert main(["verify", str(folder)]) == 0
    assert main(["verify", str(folder), "--against", "torch"]) == 0
    assert main(["verify", str(folder), "--against", f"{HERE}:pyramid"]) == 0
    state = {key: value + 0.01 for key, value in Pyramid().state_dict().items()}
    torch.save(state, tmp_path / "other.pt")
    other = ["--against", f"{HERE}:pyramid", "--weights", str(tmp_path / "other.pt")]
    assert main(["verify", str(folder), *other]) == 1


def test_one_channel_of_logits_becomes_two_classes(tmp_path: Path, percept: Callable[..., int]) -> None:
    """The background's logit is 0: the softmax of both is the sigmoid of the one."""
    assert percept(f"{HERE}:portrait", *SIZE) == 0
    folder = tmp_path / "out" / "mine" / "1"
    with np.load(folder / "golden.npz") as golden:
        logits = golden["logits"]
    assert logits.shape[1] == len(read_manifest(folder).labels) == 2
    assert not logits[:, 0].any()
    assert logits[:, 1].any()


def test_without_a_rule_the_bundle_is_made_all_the_same(tmp_path: Path, percept: Callable[..., int]) -> None:
    """Gradients are unavailable at that layer, by the operator's name."""
    assert percept(f"{HERE}:strange", *SIZE) == 0
    first, *_, last = read_manifest(tmp_path / "out" / "mine" / "1").layers
    assert "Sin" in (first.unavailable or "")
    assert last.tail


BAD = [
    ((f"{HERE}:detector", *SIZE), "not with a tensor of logits"),
    ((f"{HERE}:vectors", *SIZE), "neither"),
    ((f"{HERE}:classifier", "--size", "1"), "no feature map"),
    ((f"{HERE}:classifier", *SIZE, "--layers", "absent"), "absent"),
    ((f"{HERE}:classifier", *SIZE, "--layers", "head"), "feature map"),
    ((f"{HERE}:classifier", *SIZE, "--crop", "8"), "short_side"),
    ((f"{HERE}:classifier", *SIZE, "--precision", "int8"), "--calibrate"),
    ((f"{HERE}:classifier", *SIZE, "--background", "9"), "background"),
    ((f"{HERE}:classifier", *SIZE, "--weights", "absent.pt"), "absent.pt"),
    ((f"{HERE}:classifier", *SIZE, "--labels", "absent.txt"), "absent.txt"),
    (("absent.onnx",), "absent.onnx"),
    (("nowhere",), "is no source"),
]


@pytest.mark.parametrize(("words", "why"), BAD, ids=[row[1] for row in BAD])
def test_a_bad_wish_leaves_nothing_behind(
    tmp_path: Path, percept: Callable[..., int], capsys: pytest.CaptureFixture[str], words: tuple[str, ...], why: str
) -> None:
    """Status 1, one line that says why, and no file."""
    assert percept(*words) == 1
    said = capsys.readouterr().err
    assert re.search(why, said), said
    assert said.count("\n") == 1
    assert left(tmp_path) == []


@pytest.mark.parametrize("text", ["a\nb\n", '["a"]', '{"0": "a", "2": "b"}', "[", b"\xff\xfe"])
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, percept: Callable[..., int], text: str | bytes) -> None:
    """Too few, holes in the numbers, no JSON, no text."""
    file = tmp_path / "labels.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert percept(f"{HERE}:classifier", *SIZE, "--labels", str(file)) == 1
    assert left(tmp_path) == []


def test_nothing_that_fails_the_proof_becomes_a_bundle(
    tmp_path: Path, percept: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rule that is wrong by a thousandth is found, and nothing is left."""
    from percept_models.autodiff import rules

    right = rules.RULES["Gemm"]

    def wrong(c: object, g: str) -> list[str]:
        return [c.op.Mul(right(c, g)[0], c.like(1.001))]  # type: ignore[attr-defined]

    monkeypatch.setitem(rules.RULES, "Gemm", wrong)
    assert percept(f"{HERE}:classifier", *SIZE) == 1
    assert "does not compute the same" in capsys.readouterr().err
    assert left(tmp_path) == []


def test_a_second_bundle_of_the_name_is_refused(tmp_path: Path, percept: Callable[..., int]) -> None:
    """The first stays as it is; a new version is welcome."""
    assert percept(f"{HERE}:classifier", *SIZE) == 0
    before = left(tmp_path)
    assert percept(f"{HERE}:classifier", *SIZE) == 1
    assert left(tmp_path) == before
    assert percept(f"{HERE}:classifier", *SIZE, "--version", "2") == 0


def test_a_short_side_grows_with_the_size() -> None:
    """Unless it was said."""
    guess = Preprocessing(height=224, width=224, resize="crop", short_side=256)
    assert merge_preprocessing(guess, {"height": 448, "width": 448}).short_side == 512
    assert merge_preprocessing(guess, {"short_side": 300}).short_side == 300
    assert merge_preprocessing(guess, {"resize": "squeeze"}).short_side is None
    assert merge_preprocessing(Preprocessing(height=8, width=9), {"resize": "crop"}).short_side == 9


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight pictures and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(8):
        blots = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(blots).resize((60, 40), Image.Resampling.BICUBIC).save(folder / f"{seed}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.mark.parametrize("network", ["classifier", "pyramid"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_bundle_of_a_bundle_has_fewer_bits(
    tmp_path: Path, percept: Callable[..., int], photos: Path, network: str, precision: str
) -> None:
    """Its trunk is smaller, its tails are float32 still, and it can be compared with the one it was made of."""
    assert percept(f"{HERE}:{network}", *SIZE) == 0
    whole = tmp_path / "out" / "mine" / "1"
    calibrate = ("--calibrate", str(photos)) if precision == "int8" else ()
    assert percept(str(whole), "--precision", precision, *calibrate, name="small") == 0
    small = tmp_path / "out" / "small" / "1"
    assert read_manifest(small).precision == {"fp16": "float16", "int8": "int8"}[precision]
    assert read_manifest(small).labels == read_manifest(whole).labels
    assert main(["verify", str(small), "--against", str(whole), "--images", str(photos)]) == 0
    assert main(["verify", str(small)]) == 0
    assert main(["verify", str(small), "--against", "torch"]) == 1
    for file in small.glob("tail.*.onnx"):
        assert (small / file.name).read_bytes() != b""
        kinds = {t.data_type for t in onnx.load(file, load_external_data=False).graph.initializer}
        assert not kinds & {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    network_served = Network(small, "cpu", 1)
    layer = network_served.manifest.layers[-1]
    (row,) = network_served.run_trunk(
        [TrunkInput(np.zeros((32, 24, 3), np.uint8), network_served.outputs_for_gradients(layer))]
    )
    assert network_served.compute_gradients(layer, row, np.ones(network_served.manifest.logits, np.float32)).any()


def test_only_a_float_bundle_gets_fewer_bits(tmp_path: Path, percept: Callable[..., int], photos: Path) -> None:
    """Not one that has few already, and no bundle gets another preprocessing."""
    assert percept(f"{HERE}:classifier", *SIZE) == 0
    whole = str(tmp_path / "out" / "mine" / "1")
    assert percept(whole, name="same") == 1
    assert percept(whole, "--precision", "fp16", "--mean", "1", name="other") == 1
    assert percept(whole, "--precision", "fp16", name="half") == 0
    assert percept(str(tmp_path / "out" / "half" / "1"), "--precision", "fp16", name="quarter") == 1


def test_tf32_is_allowed_by_an_option_and_stays_so(
    tmp_path: Path, percept: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the tolerance of float16, whose mantissa it has; a bundle of the bundle may do the same."""
    assert percept(f"{HERE}:classifier", *SIZE, "--tf32") == 0
    assert "float32, TF32; verifying" in capsys.readouterr().out
    whole = tmp_path / "out" / "mine" / "1"
    assert (read_manifest(whole).tf32, read_manifest(whole).golden.tolerance) == (True, 3e-2)
    assert percept(str(whole), "--precision", "fp16", name="half") == 0
    assert read_manifest(tmp_path / "out" / "half" / "1").tf32
    assert percept(f"{HERE}:classifier", *SIZE, name="strict") == 0
    strict = read_manifest(tmp_path / "out" / "strict" / "1")
    assert (strict.tf32, strict.golden.tolerance) == (False, 1e-3)


@pytest.mark.prove
def test_resnet50_with_all_its_tails_is_hardly_larger_than_its_weights(tmp_path: Path) -> None:
    """Gradients at all four stage ends, at the stem and at the image, for less than a third more."""
    folder = convert(ExportOptions("torchvision:resnet50", "rn50", out=tmp_path, weights="none"), print)
    names = ["image", "relu", "layer1", "layer2", "layer3", "layer4"]
    assert [layer.name for layer in read_manifest(folder).layers if layer.tail] == names
    size = sum(4 * tensor.numel() for tensor in read_parameters(folder).values())
    assert size < sum(file.stat().st_size for file in folder.iterdir()) < 1.3 * size


def test_a_network_is_refused_before_its_bundle_is_written(tmp_path: Path) -> None:
    """`convert` raises what the command prints."""
    with pytest.raises(BundleError, match="neither"):
        convert(
            ExportOptions(f"{HERE}:vectors", "mine", out=tmp_path / "out", preprocessing={"height": 8, "width": 8}),
            print,
        )


def test_an_onnx_file_becomes_a_bundle(tmp_path: Path, percept: Callable[..., int]) -> None:
    """And is the truth that the bundle is compared with, then and later."""
    file = tmp_path / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        torch.onnx.export(
            Classifier().eval(), (torch.zeros(1, 3, 32, 24),), file, dynamo=True, verbose=False, output_names=["scores"]
        )
    assert percept(str(file), "--mean", "0.5", "--std", "0.25") == 0
    folder = tmp_path / "out" / "mine" / "1"
    manifest = read_manifest(folder)
    assert manifest.provenance.source == "network.onnx"
    assert [layer.shape for layer in manifest.layers][-1] == (16, 4, 3)
    assert main(["verify", str(folder), "--against", str(file)]) == 0
    assert main(["verify", str(folder), "--against", "torch"]) == 1
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 24, 3), np.uint8)
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.no_grad():
        expected = Classifier().eval()(x).numpy()
    np.testing.assert_allclose(run(folder / "trunk.onnx", {PIXELS: pixels})[LOGITS], expected, rtol=1e-4, atol=1e-5)
