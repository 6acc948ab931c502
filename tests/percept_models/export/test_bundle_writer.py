"""A network becomes a bundle that the server can read, complete or not at all."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from percept.bundle.integrity import read_manifest
from percept.errors import BundleError
from percept_models.export import bundle_writer
from percept_models.sources.trunk import Trunk
from tests.percept_models.networks import PREPROCESSING, PYRAMID, Classifier, Pyramid, digests, export_bundle


def test_manifest_describes_bundle_and_layers(tmp_path: Path) -> None:
    folder = export_bundle(tmp_path)
    manifest = read_manifest(folder)
    assert folder == tmp_path / "tiny" / "1"
    assert manifest.logits == (5,)
    assert [layer.shape for layer in manifest.layers] == [(8, 8, 6), (8, 8, 6), (16, 4, 3)]
    assert [layer.stride for layer in manifest.layers] == [(4, 4), (4, 4), (8, 8)]
    assert {file.name for file in folder.iterdir()} == {*manifest.files, "manifest.json"}
    assert "torch" in manifest.provenance.versions


def test_trunk_outputs_layers_and_crossing_tensors(tmp_path: Path) -> None:
    """And the logits; the batch is symbolic."""
    folder = export_bundle(tmp_path, Pyramid(), **PYRAMID)
    manifest = read_manifest(folder)
    trunk = onnx.load(folder / manifest.trunk, load_external_data=False)
    outputs = {value.name: value for value in trunk.graph.output}
    crossing = {name for layer in manifest.layers if layer.tail for name in layer.tail.crossing}
    assert crossing
    assert set(outputs) == {"logits", *(layer.name for layer in manifest.layers)} | crossing
    for value in [*outputs.values(), *trunk.graph.input]:
        assert value.type.tensor_type.shape.dim[0].dim_param == "N"


def test_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    assert digests(export_bundle(tmp_path / "one")) == digests(export_bundle(tmp_path / "two"))


def test_bgr_network_gets_bgr_from_rgb_pixels(tmp_path: Path) -> None:
    """The trunk reverses the channels before it normalizes them."""
    preprocessing = PREPROCESSING.model_copy(update={"channels": "BGR"})
    folder = export_bundle(tmp_path, preprocessing=preprocessing)
    with np.load(folder / "golden.npz") as golden:
        pixels, logits = golden["pixels"], golden["logits"]
    x = torch.from_numpy(pixels[..., ::-1].copy()).float()
    x = (x - torch.tensor(preprocessing.mean)) / torch.tensor(preprocessing.std)
    trunk = Trunk(Classifier(), preprocessing, ())
    with torch.no_grad():
        np.testing.assert_allclose(logits, Classifier()(x.permute(0, 3, 1, 2)).numpy(), rtol=1e-4)
        np.testing.assert_allclose(logits, trunk(torch.from_numpy(pixels))[0].numpy(), rtol=1e-4)


def test_failed_export_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Because of a wrong description or a full disk."""
    with pytest.raises(ValueError, match="labels"):
        export_bundle(tmp_path, labels=("a",))
    assert not list(tmp_path.iterdir())

    def fail(_file: Path) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(bundle_writer, "digest", fail)
    with pytest.raises(OSError, match="space"):
        export_bundle(tmp_path)
    assert not list(tmp_path.iterdir())


def test_existing_bundle_is_not_overwritten(tmp_path: Path) -> None:
    folder = export_bundle(tmp_path)
    before = digests(folder)
    with pytest.raises(BundleError, match="exists"):
        export_bundle(tmp_path)
    assert digests(folder) == before
    assert [file.name for file in folder.parent.iterdir()] == ["1"]


@pytest.mark.parametrize("below", [".", "new/folder"])
def test_folder_that_cannot_be_written_is_refused(tmp_path: Path, below: str) -> None:
    """In one line that names the option and the variable."""
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match=r"--out.*PERCEPT_MODELS") as caught:
        export_bundle(tmp_path / "file" / below)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


INVALID_LAYERS = [
    (("head",), "feature map"),
    (("absent",), "no module"),
    (("unused",), "does not use"),
    (("stage1", "stage1.act"), "the same"),
    (("seed",), "reserved"),
]


@pytest.mark.parametrize(("layers", "reason"), INVALID_LAYERS)
def test_invalid_layer_is_refused(tmp_path: Path, layers: tuple[str, ...], reason: str) -> None:
    network = Classifier()
    network.unused, network.seed = nn.Identity(), network.stage1
    with pytest.raises(ValueError, match=reason):
        export_bundle(tmp_path, network, layers=layers, cam_layer=layers[0])
    assert not list(tmp_path.iterdir())


def test_no_file_names_a_folder_of_the_machine(tmp_path: Path) -> None:
    """torch's exporter writes the paths of source files into its graphs."""
    for file in export_bundle(tmp_path).iterdir():
        content = file.read_bytes()
        assert str(Path.cwd()).encode() not in content
        assert b"site-packages" not in content
