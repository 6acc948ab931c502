"""A loaded bundle: its graphs are checked against the manifest, and its answers are known by hand."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from percept.errors import BundleError, GradientsUnavailable
from percept.imaging.overlay import npy
from percept.runtime import network as module
from percept.runtime.network import Look, Network
from percept.runtime.session import Session
from percept_models.export.arguments import REPOSITORY
from tests.bundles import bundle, read_manifest, write_manifest


def open_bundle(folder: Path) -> Network:
    return Network(folder, "cpu", threads=1)


def look(*outputs: str, seed: int = 0) -> Look:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    return Look(pixels, frozenset(outputs))


def test_a_batch_gives_each_image_what_it_asked_for(tmp_path: Path) -> None:
    network = open_bundle(bundle(tmp_path))
    looks = [look("logits"), look("logits", "colour", seed=1), look("colour", seed=2)]
    rows = network.forward(looks)
    assert [sorted(row) for row in rows] == [["logits"], ["colour", "logits"], ["colour"]]
    for each, row in zip(looks, rows, strict=True):
        alone = network.forward([each])[0]
        for name, array in row.items():
            np.testing.assert_allclose(array, alone[name], rtol=1e-6)


@pytest.mark.parametrize(("limit", "threads"), [(2**27, [2, 1]), (10, [2])])
def test_a_small_network_is_loaded_again_for_passes_that_are_not_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, threads: list[int]
) -> None:
    """It has all cores when it is alone, one when it is not; a large one shares them."""
    opened, used = [], []

    class Watched(Session):
        def __init__(self, file: Path, device: str = "cpu", threads: int = 1, **more: Any) -> None:
            super().__init__(file, device, threads, **more)
            self.threads = threads
            if file.name == "trunk.onnx":
                opened.append(threads)

        def run(self, *arguments: Any) -> Any:
            used.append(self.threads)
            return super().run(*arguments)

    monkeypatch.setattr(module, "Session", Watched)
    monkeypatch.setattr(module, "SMALL_BYTES", limit)
    network = Network(bundle(tmp_path), "cpu", 2)
    network.double()
    assert opened == threads
    used.clear()
    rows = [network.forward([look("logits")], alone)[0]["logits"] for alone in (True, False)]
    assert used == [2, threads[-1]]
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-6)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_gradients_are_those_known_by_hand(task: str, tmp_path: Path) -> None:
    network = open_bundle(bundle(tmp_path, task=task))
    layer = network.manifest.layers[0]
    row = network.forward([look(*network.cut(layer))])[0]
    seed = np.random.default_rng(3).random(network.manifest.logits, np.float32)
    gradients = network.gradients(layer, row, seed)
    expected = np.broadcast_to(seed[:, None, None] / 64, (3, 8, 8)) if task == "classification" else seed[1:]
    np.testing.assert_allclose(gradients, expected, rtol=1e-6)


def test_a_layer_without_tail_says_why(tmp_path: Path) -> None:
    network = open_bundle(bundle(tmp_path, tail=False))
    layer = network.manifest.layers[0]
    row = network.forward([look(*network.cut(layer))])[0]
    with pytest.raises(GradientsUnavailable, match="no rule for Colour"):
        network.gradients(layer, row, np.ones(3, np.float32))


def test_a_golden_output_that_is_not_reproduced_is_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    with np.load(folder / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["logits"] = arrays["logits"] * 1.01
    np.savez(folder / "golden.npz", **arrays)
    write_manifest(folder, read_manifest(folder), rehash=True)
    with pytest.raises(BundleError, match=r"golden input is not reproduced: off by 0\.0099"):
        open_bundle(folder)


def test_a_golden_file_that_is_none_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04broken", b"text", npy(np.zeros(3))):
        folder = bundle(tmp_path, name=f"b{len(content)}")
        (folder / "golden.npz").write_bytes(content)
        write_manifest(folder, read_manifest(folder), rehash=True)
        with pytest.raises(BundleError, match="holds no golden input"):
            open_bundle(folder)


def test_a_golden_input_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    np.savez(folder / "golden.npz", pixels=np.zeros((1, 8, 8, 3), np.uint8), logits=np.zeros((1, 3)))
    write_manifest(folder, read_manifest(folder), rehash=True)
    with pytest.raises(BundleError, match="golden input cannot be run"):
        open_bundle(folder)


def test_a_graph_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    (folder / "trunk.onnx").write_bytes(b"half a graph")
    write_manifest(folder, read_manifest(folder), rehash=True)
    with pytest.raises(BundleError, match="ONNX Runtime refuses the graph"):
        open_bundle(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m["layers"][0].update(shape=[3, 8, 9]), "trunk output 'colour'"),
        (lambda m: m["layers"][0].update(name="body"), "trunk output 'body' is missing"),
        (lambda m: m["preprocessing"].update(height=64), "trunk input 'pixels'"),
        (lambda m: m["layers"][0]["tail"].update(crossing=["p3"]), "the trunk does not give ['p3']"),
        (lambda m: m.update(logits=[4], labels=["a", "b", "c", "d"]), "trunk output 'logits'"),
    ],
)
def test_a_manifest_that_its_graph_contradicts_is_refused(change, reason: str, tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    manifest = read_manifest(folder)
    change(manifest)
    manifest["cam_layer"] = manifest["layers"][0]["name"]
    write_manifest(folder, manifest)
    with pytest.raises(BundleError) as caught:
        open_bundle(folder)
    assert reason in str(caught.value)


def test_a_trunk_of_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    model = onnx.load(folder / "trunk.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, folder / "trunk.onnx")
    write_manifest(folder, read_manifest(folder), rehash=True)
    with pytest.raises(BundleError, match="trunk input 'pixels'"):
        open_bundle(folder)


def test_a_tail_of_another_layer_is_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    (folder / "tail.colour.onnx").write_bytes((folder / "trunk.onnx").read_bytes())
    write_manifest(folder, read_manifest(folder), rehash=True)
    with pytest.raises(BundleError, match="output of tail 'colour' 'gradients' is missing"):
        open_bundle(folder)


@pytest.mark.parametrize("name", ["tail.stage1.onnx", "weights.bin"])
def test_a_tail_that_is_asked_for_later_is_still_the_one_of_its_bundle(name: str, tmp_path: Path) -> None:
    """Other weights would give other gradients, and no error."""
    folder = Path(shutil.copytree(REPOSITORY / "cifar10" / "1", tmp_path / "cifar10" / "1"))
    network = open_bundle(folder)
    layer = network.manifest.layer("stage1")
    assert layer
    row = network.forward([Look(np.zeros((32, 32, 3), np.uint8), network.cut(layer))])[0]
    with (folder / name).open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"altered!")
    with pytest.raises(BundleError, match=f"{name} is not the file that the manifest describes"):
        network.gradients(layer, row, np.ones(10, np.float32))


def test_what_follows_a_layer_is_measured() -> None:
    """Pooled and linear, linear alone, and neither, as the built-in models are."""
    cifar10, clothing = (Network(REPOSITORY / name / "1", "cpu", 1) for name in ("cifar10", "clothing"))
    found = {
        layer.name: (network.linear(layer), network.pooled(layer))
        for network in (cifar10, clothing)
        for layer in network.manifest.layers
        if layer.name in ("stage1", "stage2", "merge")
    }
    assert found["merge"] == (True, False)
    assert cifar10.pooled(cifar10.manifest.layer("stage2"))
    assert not cifar10.linear(cifar10.manifest.layer("stage1"))
