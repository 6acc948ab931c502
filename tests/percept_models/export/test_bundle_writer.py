"""A network becomes a bundle that the online house can read."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from percept.bundle.filters import load, tiles
from percept.bundle.manifest import Preprocessing, digest, read
from percept.errors import BundleError
from percept_models.export import bundle_writer as module
from percept_models.export.bundle_writer import weights
from percept_models.export.weights import WEIGHTS
from percept_models.sources.trunk import Trunk
from tests.percept_models.networks import HOW, PYRAMID, Classifier, Pyramid, Strange, bundle


def test_a_bundle_reads_back(tmp_path: Path) -> None:
    """The manifest keeps the contract and describes the layers."""
    folder = bundle(tmp_path)
    manifest = read(folder)
    assert folder == tmp_path / "tiny" / "1"
    assert manifest.logits == (5,)
    assert [layer.shape for layer in manifest.layers] == [(8, 8, 6), (8, 8, 6), (16, 4, 3)]
    assert [layer.stride for layer in manifest.layers] == [(4, 4), (4, 4), (8, 8)]
    assert {file.name for file in folder.iterdir()} == {*manifest.files, "manifest.json"}
    assert "torch" in manifest.provenance.versions


def test_the_trunk_taps_layers_and_what_crosses_the_cut(tmp_path: Path) -> None:
    """Its outputs are the logits, every layer, and every tensor that a tail asks for; its batch is symbolic."""
    folder = bundle(tmp_path, Pyramid(), **PYRAMID)
    manifest = read(folder)
    trunk = onnx.load(folder / manifest.trunk, load_external_data=False)
    outputs = {value.name: value for value in trunk.graph.output}
    crossing = {n for layer in manifest.layers if layer.tail for n in layer.tail.crossing}
    assert crossing
    assert set(outputs) == {"logits", *(layer.name for layer in manifest.layers)} | crossing
    for value in [*outputs.values(), *trunk.graph.input]:
        assert value.type.tensor_type.shape.dim[0].dim_param == "N"


def test_no_weight_is_stored_twice(tmp_path: Path) -> None:
    """All graphs share one file, which is no larger than the weights and a few interpolation matrices."""
    network = Pyramid()
    folder = bundle(tmp_path, network, **PYRAMID)
    size = sum(4 * parameter.numel() for parameter in network.parameters())
    assert (folder / WEIGHTS).stat().st_size < 1.3 * size + 8192
    for file in folder.glob("tail.*.onnx"):
        own = onnx.load(file, load_external_data=False).graph.initializer
        assert sum(len(tensor.raw_data) for tensor in own) < 8192


def test_weights_come_back(tmp_path: Path) -> None:
    """The network's state dict, by its own names and bit by bit."""
    network = Pyramid()
    network.head.bias.data.zero_()  # an exporter likes to drop or merge zeros
    network.merge[0].bias.data.zero_()
    network.laterals[0].bias.data.zero_()
    found = weights(bundle(tmp_path, network, **PYRAMID))
    assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in network.state_dict().items()}


def test_the_golden_input_is_the_same_every_time(tmp_path: Path) -> None:
    """The same network gives the same bundle, byte for byte."""
    one, two = bundle(tmp_path / "one"), bundle(tmp_path / "two")
    assert {f.name: digest(f) for f in one.iterdir()} == {f.name: digest(f) for f in two.iterdir()}


def test_bgr_networks_get_bgr(tmp_path: Path) -> None:
    """The trunk takes RGB and turns the channels itself, before it normalises."""
    how = HOW.model_copy(update={"channels": "BGR"})
    folder = bundle(tmp_path, preprocessing=how)
    with np.load(folder / "golden.npz") as golden:
        pixels, logits = golden["pixels"], golden["logits"]
    x = torch.from_numpy(pixels[..., ::-1].copy()).float()
    x = (x - torch.tensor(how.mean)) / torch.tensor(how.std)
    with torch.no_grad():
        np.testing.assert_allclose(logits, Classifier()(x.permute(0, 3, 1, 2)).numpy(), rtol=1e-4)
        np.testing.assert_allclose(logits, Trunk(Classifier(), how, ())(torch.from_numpy(pixels))[0].numpy(), rtol=1e-4)


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_the_first_kernels_are_drawn_in_red_green_and_blue(tmp_path: Path, channels: str) -> None:
    """Whatever the order of the network's channels; zero is grey, the greatest weight of each kernel is full."""
    network = Classifier()
    W = network.stem[0].weight.detach().numpy()
    folder = bundle(tmp_path, network, layers=("image", "stem"), cam_layer="stem", preprocessing=_order(channels))
    (drawing,) = read(folder).filters
    assert (drawing.kind, drawing.channels, drawing.tile) == ("kernels", tuple(range(8)), (3, 3))
    shown = np.stack([np.asarray(tile) for tile in tiles(load(folder, drawing), drawing)]).astype(float) - 128
    assert (np.abs(shown).max((1, 2, 3)) == 127).all()
    expected = (W if channels == "RGB" else W[:, ::-1]).transpose(0, 2, 3, 1)
    expected = 127 * expected / np.abs(expected).max((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(shown, expected, atol=0.51)


def test_a_network_without_kernels_of_colour_has_none_drawn(tmp_path: Path) -> None:
    """Such as one that looks at each colour alone."""
    network = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(), nn.LazyLinear(5))
    network(torch.zeros(1, 3, HOW.height, HOW.width))
    assert read(bundle(tmp_path, network, layers=("image", "0"), cam_layer="0")).filters == ()


def _order(channels: str) -> Preprocessing:
    return HOW.model_copy(update={"channels": channels})


def test_a_layer_behind_an_unknown_operator_is_tapped_without_gradients(tmp_path: Path) -> None:
    """The manifest names the operator; other layers have their tails."""
    layers = ("stage1", "stage2")
    folder = bundle(tmp_path, Strange(), labels=("a", "b"), layers=layers, cam_layer="stage2")
    first, second = read(folder).layers
    assert first.tail is None
    assert "Sin" in (first.unavailable or "")
    assert second.tail is not None


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the description is wrong or the disk full: no folder, no staging."""
    with pytest.raises(ValueError, match="labels"):
        bundle(tmp_path, labels=("a",))
    assert not list(tmp_path.iterdir())

    def full(_file: Path) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(module, "digest", full)
    with pytest.raises(OSError, match="space"):
        bundle(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_bundle_is_never_overwritten(tmp_path: Path) -> None:
    """An export to a place that is taken is refused, and the old bundle stays as it was."""
    folder = bundle(tmp_path)
    before = digest(folder / "manifest.json")
    with pytest.raises(BundleError, match="exists"):
        bundle(tmp_path)
    assert digest(folder / "manifest.json") == before
    assert [f.name for f in folder.parent.iterdir()] == ["1"]


REFUSED = [
    (("head",), "feature map"),
    (("absent",), "no module"),
    (("unused",), "does not use"),
    (("stage1", "stage1.act"), "the same"),
    (("seed",), "reserved"),
]


@pytest.mark.parametrize(("layers", "why"), REFUSED)
def test_a_layer_that_is_no_feature_map_is_refused(tmp_path: Path, layers: tuple[str, ...], why: str) -> None:
    """So is one that is absent, unused or doubled, or has a name that a tail needs for itself."""
    network = Classifier()
    network.unused, network.seed = nn.Identity(), network.stage1
    with pytest.raises(ValueError, match=why):
        bundle(tmp_path, network, layers=layers, cam_layer=layers[0])
    assert not list(tmp_path.iterdir())


def test_no_file_tells_on_which_machine_it_was_made(tmp_path: Path) -> None:
    """Exporters like to note where the source lay."""
    folder = bundle(tmp_path)
    for file in folder.iterdir():
        content = file.read_bytes()
        assert str(Path.cwd()).encode() not in content
        assert b"site-packages" not in content
    shutil.rmtree(folder)
