"""A loaded network: outputs and gradients have the known values, and files are checked when they are used."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from percept.bundle.manifest import WEIGHTS
from percept.errors import BundleError, GradientsUnavailable
from percept.runtime import network as network_module
from percept.runtime.network import Network, TrunkInput
from percept.runtime.session import Device, Session
from percept.settings import BUILT_IN_BUNDLES
from tests.bundles import create_bundle, find_layer, read_manifest_json, write_manifest


def load(folder: Path) -> Network:
    return Network(folder, "cpu", threads=1)


def trunk_input(*outputs: str, seed: int = 0) -> TrunkInput:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    return TrunkInput(pixels, frozenset(outputs))


def test_each_image_of_a_batch_gets_its_outputs(tmp_path: Path) -> None:
    network = load(create_bundle(tmp_path))
    inputs = [trunk_input("logits"), trunk_input("logits", "colour", seed=1), trunk_input("colour", seed=2)]
    results = network.run_trunk(inputs)
    assert [sorted(outputs) for outputs in results] == [["logits"], ["colour", "logits"], ["colour"]]
    for one, outputs in zip(inputs, results, strict=True):
        (alone,) = network.run_trunk([one])
        for name, array in outputs.items():
            np.testing.assert_allclose(array, alone[name], rtol=1e-6)


@pytest.mark.parametrize(("limit", "threads"), [(2**27, [2, 1]), (10, [2])])
def test_small_trunk_is_loaded_again_for_parallel_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, threads: list[int]
) -> None:
    """A run that is alone has two threads, a run beside others one; a large trunk is loaded once and shared."""
    loaded, used = [], []

    class RecordingSession(Session):
        def __init__(self, file: Path, device: Device = "cpu", threads: int = 1, **options: Any) -> None:
            super().__init__(file, device, threads, **options)
            self.threads = threads
            if file.name == "trunk.onnx":
                loaded.append(threads)

        def run(self, *arguments: Any) -> Any:
            used.append(self.threads)
            return super().run(*arguments)

    monkeypatch.setattr(network_module, "Session", RecordingSession)
    monkeypatch.setattr(network_module, "MAX_PARALLEL_TRUNK_BYTES", limit)
    network = Network(create_bundle(tmp_path), "cpu", 2)
    network.load_parallel_trunk()
    assert loaded == threads
    used.clear()
    alone, parallel = (network.run_trunk([trunk_input("logits")], alone)[0]["logits"] for alone in (True, False))
    assert used == [2, threads[-1]]
    np.testing.assert_allclose(alone, parallel, rtol=1e-6)


def test_trunk_file_is_the_one_that_the_manifest_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = create_bundle(tmp_path)
    size = (folder / "trunk.onnx").stat().st_size
    (folder / "trunk.onnx").rename(folder / "other.onnx")
    manifest = read_manifest_json(folder)
    manifest["trunk"] = "other.onnx"
    manifest["files"]["other.onnx"] = manifest["files"].pop("trunk.onnx")
    write_manifest(folder, manifest)
    for limit, sessions in ((size, 2), (size - 1, 1)):
        monkeypatch.setattr(network_module, "MAX_PARALLEL_TRUNK_BYTES", limit)
        network = Network(folder, "cpu", 2)
        network.load_parallel_trunk()
        assert len({network._trunk, network._parallel_trunk}) == sessions
        assert network.run_trunk([trunk_input("logits")], alone=False)[0]["logits"].shape == (3,)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_gradients_have_the_known_values(task: str, tmp_path: Path) -> None:
    network = load(create_bundle(tmp_path, task=task))
    layer = network.manifest.layers[0]
    (outputs,) = network.run_trunk([trunk_input(*network.outputs_for_gradients(layer))])
    seed = np.random.default_rng(3).random(network.manifest.logits, np.float32)
    gradients = network.compute_gradients(layer, outputs, seed)
    expected = np.broadcast_to(seed[:, None, None] / 64, (3, 8, 8)) if task == "classification" else seed[1:]
    np.testing.assert_allclose(gradients, expected, rtol=1e-6)


def test_layer_without_tail_states_the_reason(tmp_path: Path) -> None:
    network = load(create_bundle(tmp_path, tail=False))
    layer = network.manifest.layers[0]
    (outputs,) = network.run_trunk([trunk_input(*network.outputs_for_gradients(layer))])
    with pytest.raises(GradientsUnavailable, match="no rule for Colour"):
        network.compute_gradients(layer, outputs, np.ones(3, np.float32))


def test_broken_graph_is_refused(tmp_path: Path) -> None:
    folder = create_bundle(tmp_path)
    (folder / "trunk.onnx").write_bytes(b"half a graph")
    write_manifest(folder, read_manifest_json(folder), rehash=True)
    with pytest.raises(BundleError, match="ONNX Runtime refuses the graph"):
        load(folder)


@pytest.mark.parametrize("name", ["tail.stage1.onnx", WEIGHTS])
def test_tail_loaded_later_is_checked_again(name: str, tmp_path: Path) -> None:
    """Other weights would give other gradients, and no error."""
    folder = Path(shutil.copytree(BUILT_IN_BUNDLES / "cifar10" / "1", tmp_path / "cifar10" / "1"))
    network = load(folder)
    layer = find_layer(network.manifest, "stage1")
    (outputs,) = network.run_trunk([trunk_input(*network.outputs_for_gradients(layer))])
    with (folder / name).open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"altered!")
    with pytest.raises(BundleError, match=f"{name} is not the file that the manifest describes"):
        network.compute_gradients(layer, outputs, np.ones(10, np.float32))


@pytest.mark.parametrize(
    ("model", "name", "linear", "uniform"),
    [("cifar10", "stage2", True, True), ("clothing", "merge", True, False), ("cifar10", "stage1", False, False)],
)
def test_linearity_is_measured(model: str, name: str, linear: bool, uniform: bool) -> None:
    """Behind the three layers: pooling and one linear layer; one linear layer; layers with activations."""
    network = load(BUILT_IN_BUNDLES / model / "1")
    layer = find_layer(network.manifest, name)
    assert not network.knows_linearity(layer)
    assert (network.is_linear(layer), network.has_uniform_gradients(layer)) == (linear, uniform)
    assert network.knows_linearity(layer)
