"""`percept export`: sources that become bundles, and sources that are refused without a file in the output folder."""

import re
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from percept.bundle.integrity import read_manifest
from percept.bundle.manifest import OutputHead
from percept.errors import BundleError
from percept.runtime.network import Network, TrunkInput
from percept.server.cli import main
from percept_models.autodiff.tail import LOGITS
from percept_models.export.convert import convert
from percept_models.export.options import ExportOptions
from percept_models.export.weights import read_parameters
from percept_models.graph.execution import run
from percept_models.sources.trunk import PIXELS
from tests.percept_models.export.conftest import Export
from tests.percept_models.export.factories import MODULE
from tests.percept_models.importer.graphs import node, pool_and_flatten, write_classifier
from tests.percept_models.networks import Classifier


def has_gradients(folder: Path, layer_index: int) -> bool:
    """Whether the server loads a bundle and computes gradients at one of its layers."""
    network = Network(folder, "cpu", 1)
    layer = network.manifest.layers[layer_index]
    (outputs,) = network.run_trunk([TrunkInput(np.zeros((32, 24, 3), np.uint8), network.outputs_for_gradients(layer))])
    return bool(network.compute_gradients(layer, outputs, np.ones(network.manifest.logits, np.float32)).any())


def test_exported_bundle_is_loaded_by_the_server(export: Export) -> None:
    assert export(f"{MODULE}:segmenter") == 0
    assert has_gradients(export.folder(), 0)


def test_one_channel_of_logits_becomes_two_classes(export: Export) -> None:
    """The background's logit is 0: the softmax of both is the sigmoid of the one."""
    assert export(f"{MODULE}:binary_segmenter") == 0
    with np.load(export.folder() / "golden.npz") as golden:
        logits = golden["logits"]
    assert logits.shape[1] == len(read_manifest(export.folder()).labels) == 2
    assert not logits[:, 0].any()
    assert logits[:, 1].any()


def test_unsupported_operator_costs_only_gradients(export: Export) -> None:
    """They are unavailable at the layers before it, by the operator's name."""
    assert export(f"{MODULE}:product_classifier") == 0
    first, *_, last = read_manifest(export.folder()).layers
    assert "ReduceProd" in (first.unavailable or "")
    assert last.tail


REFUSED = [
    ((f"{MODULE}:detector",), "no output of the network looks like the logits"),
    ((f"{MODULE}:row_mean",), "no feature map was found"),
    ((f"{MODULE}:classifier", "--size", "1"), "no feature map"),
    ((f"{MODULE}:classifier", "--layers", "absent"), "absent"),
    ((f"{MODULE}:classifier", "--layers", "head"), "feature map"),
    ((f"{MODULE}:classifier", "--crop", "8"), "short_side"),
    ((f"{MODULE}:classifier", "--std", "0"), r"the bundle would violate the contract: std\.0: Input should be greater"),
    ((f"{MODULE}:classifier", "--precision", "int8"), "--calibrate"),
    ((f"{MODULE}:classifier", "--background", "9"), "background"),
    ((f"{MODULE}:classifier", "--weights", "absent.pt"), "absent.pt"),
    ((f"{MODULE}:classifier", "--labels", "absent.txt"), "absent.txt"),
    (("absent.onnx",), "absent.onnx"),
    (("nowhere",), "is not a source"),
]


@pytest.mark.parametrize(("arguments", "reason"), REFUSED, ids=[row[1] for row in REFUSED])
def test_refused_export_prints_one_line_and_leaves_no_file(
    export: Export, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], reason: str
) -> None:
    assert export(*arguments) == 1
    printed = capsys.readouterr().err
    assert re.search(reason, printed), printed
    assert printed.count("\n") == 1
    assert "pydantic" not in printed
    assert export.files() == []


def test_folder_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the network is loaded, in one line that names the option and the variable."""
    export.out.touch()
    assert export("absent.module:factory") == 1
    printed = capsys.readouterr().err
    assert "--out" in printed
    assert "PERCEPT_MODELS" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("text", ["a\nb\n", '["a"]', '{"0": "a", "2": "b"}', "[", b"\xff\xfe"])
def test_invalid_labels_are_refused(tmp_path: Path, export: Export, text: str | bytes) -> None:
    """Too few labels, a missing index, broken JSON, and bytes that are not UTF-8."""
    file = tmp_path / "labels.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert export(f"{MODULE}:classifier", "--labels", str(file)) == 1
    assert export.files() == []


def test_wrong_gradient_rule_prevents_the_bundle(
    export: Export, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rule that is wrong by a thousandth is found, and no file is left."""
    from percept_models.autodiff import rules

    right = rules.RULES["Gemm"]

    def wrong(c: object, g: str) -> list[str]:
        return [c.op.Mul(right(c, g)[0], c.constant(1.001, like=g))]  # type: ignore[attr-defined]

    monkeypatch.setitem(rules.RULES, "Gemm", wrong)
    assert export(f"{MODULE}:classifier") == 1
    assert "does not compute the same" in capsys.readouterr().err
    assert export.files() == []


def test_existing_bundle_stays_and_another_version_is_added(export: Export) -> None:
    assert export(f"{MODULE}:classifier") == 0
    before = export.files()
    assert export(f"{MODULE}:classifier") == 1
    assert export.files() == before
    assert export(f"{MODULE}:classifier", "--version", "2") == 0


@pytest.mark.parametrize("network", ["classifier", "segmenter"])
@pytest.mark.parametrize(("option", "precision"), [("fp16", "float16"), ("int8", "int8")])
def test_bundle_is_exported_in_lower_precision(
    export: Export, photos: Path, network: str, option: str, precision: str
) -> None:
    """Its trunk is verified against the float32 bundle, and its tails stay float32."""
    assert export(f"{MODULE}:{network}") == 0
    calibrate = ("--calibrate", str(photos)) if option == "int8" else ()
    assert export(str(export.folder()), "--precision", option, *calibrate, name="small") == 0
    small = export.folder("small")
    assert read_manifest(small).precision == precision
    assert read_manifest(small).labels == read_manifest(export.folder()).labels
    assert main(["verify", str(small), "--against", str(export.folder()), "--images", str(photos)]) == 0
    assert main(["verify", str(small)]) == 0
    assert main(["verify", str(small), "--against", "torch"]) == 1
    for file in small.glob("tail.*.onnx"):
        types = {tensor.data_type for tensor in onnx.load(file, load_external_data=False).graph.initializer}
        assert not types & {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    assert has_gradients(small, -1)


def test_only_a_float32_bundle_is_converted(export: Export) -> None:
    """And its preprocessing cannot be changed."""
    assert export(f"{MODULE}:classifier") == 0
    bundle = str(export.folder())
    assert export(bundle, name="same") == 1
    assert export(bundle, "--precision", "fp16", "--mean", "1", name="other") == 1
    assert export(bundle, "--precision", "fp16", name="half") == 0
    assert export(str(export.folder("half")), "--precision", "fp16", name="quarter") == 1


def test_tf32_is_kept_by_bundles_of_the_bundle(export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    """Its golden input has the tolerance of float16, whose mantissa it has."""
    assert export(f"{MODULE}:classifier", "--tf32") == 0
    assert "float32, TF32; verifying" in capsys.readouterr().out
    manifest = read_manifest(export.folder())
    assert (manifest.tf32, manifest.golden.tolerance) == (True, 3e-2)
    assert export(str(export.folder()), "--precision", "fp16", name="half") == 0
    assert read_manifest(export.folder("half")).tf32
    assert export(f"{MODULE}:classifier", name="strict") == 0
    strict = read_manifest(export.folder("strict"))
    assert (strict.tf32, strict.golden.tolerance) == (False, 1e-3)


@pytest.mark.prove
def test_tails_of_resnet50_add_less_than_a_third(tmp_path: Path) -> None:
    """Gradients at all four stage ends, at the stem and at the image."""
    folder = convert(ExportOptions("torchvision:resnet50", "rn50", tmp_path, weights="none"), print)
    names = ["image", "relu", "layer1", "layer2", "layer3", "layer4"]
    assert [layer.name for layer in read_manifest(folder).layers if layer.tail] == names
    size = sum(4 * tensor.numel() for tensor in read_parameters(folder).values())
    assert size < sum(file.stat().st_size for file in folder.iterdir()) < 1.3 * size


def test_convert_raises_what_the_command_prints(tmp_path: Path) -> None:
    size = {"height": 8, "width": 8}
    with pytest.raises(BundleError, match="no feature map was found"):
        convert(ExportOptions(f"{MODULE}:row_mean", "mine", tmp_path / "out", preprocessing=size), print)


def test_onnx_file_is_exported_and_verified(tmp_path: Path, export: Export) -> None:
    """The file itself is the reference, then and later."""
    file = tmp_path / "network.onnx"
    x = torch.zeros(1, 3, 32, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about itself
        torch.onnx.export(Classifier().eval(), (x,), file, dynamo=True, verbose=False, output_names=["scores"])
    assert export(str(file), "--mean", "0.5", "--std", "0.25") == 0
    manifest = read_manifest(export.folder())
    assert manifest.provenance.source == "network.onnx"
    assert [layer.shape for layer in manifest.layers][-1] == (16, 4, 3)
    assert main(["verify", str(export.folder()), "--against", str(file)]) == 0
    assert main(["verify", str(export.folder()), "--against", "torch"]) == 1
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 24, 3), np.uint8)
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.no_grad():
        expected = Classifier().eval()(x).numpy()
    found = run(export.folder() / manifest.trunk, {PIXELS: pixels})[LOGITS]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "none"])
def test_onnx_file_is_verified_at_the_same_output(tmp_path: Path, export: Export, activation: str) -> None:
    """At the tensor that `--output` named, and with the activation that `--activation none` kept."""
    nodes = [*pool_and_flatten("c"), node("Softmax", "y", "s", axis=1), node("Relu", "c", "maps")]
    file = write_classifier(tmp_path, *nodes, outputs=["maps", "s"])
    assert export(str(file), "--output", "s", "--activation", activation) == 0
    head = read_manifest(export.folder()).head
    assert head == OutputHead(output="s", removed=("Softmax",) if activation == "softmax" else ())
    assert main(["verify", str(export.folder()), "--against", str(file)]) == 0
