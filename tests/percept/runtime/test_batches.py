"""A network in batches of fixed sizes: the same answers, every size run before it is used; on a GPU if one works."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from percept.errors import BundleError, DeviceError
from percept.runtime import network as module
from percept.runtime.batch_sizes import sizes
from percept.runtime.network import Look, Network
from percept.runtime.providers import Tuning
from percept.runtime.session import Session, resolve
from percept.settings import BUILT_IN
from percept_models.export.precision import half
from tests.bundles import bundle, read_manifest, write_manifest

FOUR = sizes(4)
Runs = list[tuple[str, dict[str, int], list[str]]]


def looks(network: Network, n: int, *outputs: str) -> list[Look]:
    how = network.manifest.preprocessing
    pixels = np.random.default_rng(n).integers(0, 256, (n, how.height, how.width, 3), np.uint8)
    return [Look(one, frozenset(outputs or ("logits",))) for one in pixels]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """What every session ran: its file, the rows of every input, and the outputs."""
    seen: Runs = []

    class Watched(Session):
        def __init__(self, file, *arguments, **more) -> None:
            super().__init__(file, *arguments, **more)
            self.file = file.name

        def run(self, feeds, outputs):
            seen.append((self.file, {name: len(rows) for name, rows in feeds.items()}, list(outputs)))
            return super().run(feeds, outputs)

    monkeypatch.setattr(module, "Session", Watched)
    return seen


@pytest.mark.parametrize("name", ["cifar10", "clothing"])
def test_every_batch_has_the_answers_of_each_image_alone(name: str) -> None:
    """Whether it is padded, full, or cut into several."""
    network, plain = (Network(BUILT_IN / name / "1", "cpu", 1, some) for some in (FOUR, ()))
    layer = network.manifest.layer(network.manifest.cam_layer)
    for n in (1, 3, 4, 5, 9) if name == "cifar10" else (3, 5):
        asked = looks(network, n, *network.cut(layer))
        found = network.forward(asked)
        assert len(found) == n
        for look, row in zip(asked, found, strict=True):
            (alone,) = plain.forward([look])
            assert set(row) == look.outputs
            for output, array in row.items():
                np.testing.assert_allclose(array, alone[output], rtol=1e-4, atol=1e-4 * np.abs(array).max())


@pytest.mark.parametrize("name", ["cifar10", "clothing"])
def test_every_tail_has_the_gradients_of_each_row_alone(name: str) -> None:
    """Of every layer: with what bypasses it, and with seeds for the layers on the way."""
    network, plain = (Network(BUILT_IN / name / "1", "cpu", 1, some) for some in (sizes(2), ()))
    crossing = []
    for layer in network.manifest.layers:
        (row,) = plain.forward(looks(network, 1, *network.cut(layer)))
        rng = np.random.default_rng(1)
        A = row[layer.name] * rng.uniform(0.5, 1, (3, 1, 1, 1)).astype(np.float32)
        seeds = rng.standard_normal((3, *network.manifest.logits)).astype(np.float32)
        inner = {way: np.full((1, 1, 1, 1), 0.1, np.float32) for way in layer.tail.seeds}
        found = network.tail(layer, row, A, seeds, inner=inner)
        for k in range(3):
            alone = plain.tail(layer, row, A[k : k + 1], seeds[k : k + 1], inner=inner)
            for output in ("logits", "gradients"):
                limit = 1e-4 * np.abs(alone[output]).max()
                np.testing.assert_allclose(found[output][k], alone[output][0], rtol=1e-4, atol=limit)
        crossing += layer.tail.crossing
    assert bool(crossing) == (name == "clothing")


def test_every_bucket_is_run_before_the_network_counts_as_loaded(runs: Runs, tmp_path: Path) -> None:
    """The trunk with all that may be asked for, the tail of the CAM layer with both of its outputs."""
    network = Network(bundle(tmp_path), "cpu", 1, FOUR)
    trunk = [(feeds["pixels"], set(outputs)) for file, feeds, outputs in runs if file == "trunk.onnx"]
    assert {n for n, outputs in trunk if outputs == {"logits", "colour"}} == set(FOUR)
    tail = [(feeds["activations"], feeds["seed"], outputs) for file, feeds, outputs in runs if "tail" in file]
    assert tail == [(n, n, ["logits", "gradients"]) for n in reversed(FOUR)]
    runs.clear()
    network.forward(looks(network, 7))
    assert [feeds["pixels"] for _, feeds, _ in runs] == [4, 4]
    assert all(outputs == ["logits"] for _, _, outputs in runs)


def test_a_tail_that_is_loaded_later_is_warm_when_it_is_used(runs: Runs) -> None:
    network = Network(BUILT_IN / "cifar10" / "1", "cpu", 1, sizes(2))
    layer = network.manifest.layer("image")
    (row,) = network.forward(looks(network, 1, *network.cut(layer)))
    runs.clear()
    network.gradients(layer, row, np.ones(network.manifest.logits, np.float32))
    tails = [feeds["activations"] for file, feeds, _ in runs if file == layer.tail.file]
    assert tails == [2, 1, 1]


def test_without_buckets_nothing_is_run_but_the_golden_input(runs: Runs, tmp_path: Path) -> None:
    network = Network(bundle(tmp_path), "cpu", 1)
    assert runs == [("trunk.onnx", {"pixels": 1}, ["logits"])]
    network.forward(looks(network, 7))
    assert runs[1][1] == {"pixels": 7}


def test_a_trunk_that_is_another_in_a_greater_batch_is_refused(tmp_path: Path) -> None:
    """Its logits are multiplied by the number of images."""
    folder = bundle(tmp_path)
    model = onnx.load(folder / "trunk.onnx")
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["pixels"], ["n"], start=0, end=1),
            helper.make_node("Cast", ["n"], ["factor"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["raw", "factor"], ["logits"]),
        ]
    )
    onnx.save(model, folder / "trunk.onnx")
    write_manifest(folder, read_manifest(folder), rehash=True)
    assert Network(folder, "cpu", 1, (1,))
    with pytest.raises(BundleError, match="golden input is not reproduced"):
        Network(folder, "cpu", 1, (1, 2))


def test_a_tail_that_cannot_be_run_is_refused_with_its_bundle(tmp_path: Path) -> None:
    """It looks at the eighth row of its batch."""
    folder = bundle(tmp_path)
    model = onnx.load(folder / "tail.colour.onnx")
    model.graph.initializer.append(helper.make_tensor("eighth", TensorProto.INT64, [1], [7]))
    model.graph.node[-1].output[0] = "whole"
    model.graph.node.append(helper.make_node("Gather", ["whole", "eighth"], ["row"]))
    model.graph.node.append(helper.make_node("Mul", ["whole", "row"], ["gradients"]))
    onnx.save(model, folder / "tail.colour.onnx")
    write_manifest(folder, read_manifest(folder), rehash=True)
    with pytest.raises(BundleError, match="the tail of 'colour' cannot be run: ONNX Runtime failed"):
        Network(folder, "cpu", 1, FOUR)
    assert Network(folder, "cpu", 1)


def test_float16_goes_through_buckets(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    onnx.save(half(onnx.load(folder / "trunk.onnx")), folder / "trunk.onnx")
    manifest = read_manifest(folder) | {"precision": "float16", "golden": {"file": "golden.npz", "tolerance": 3e-2}}
    write_manifest(folder, manifest, rehash=True)
    network, plain = (Network(folder, "cpu", 1, some) for some in (FOUR, ()))
    asked = looks(network, 7, "logits", "colour")
    for row, alone in zip(network.forward(asked), plain.forward(asked), strict=True):
        assert row["colour"].dtype == row["logits"].dtype == np.float32
        np.testing.assert_allclose(row["colour"], alone["colour"], atol=1e-3)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, Tuning]]:
    """For which device and with which tuning every file was opened; each is opened on the CPU."""
    seen: dict[str, tuple[str, Tuning]] = {}

    def watched(file: Path, device, threads: int, tuning: Tuning, alone: bool = False) -> Session:
        seen[file.name] = device, tuning
        return Session(file, "cpu", threads)

    monkeypatch.setattr(module, "Session", watched)
    return seen


def test_tensorrt_runs_the_trunk_and_cuda_the_tails(opened, tmp_path: Path) -> None:
    """In the batches that there are, with engines of their own."""
    Network(bundle(tmp_path), "tensorrt", 1, FOUR, Tuning(memory_bytes=9, engines=tmp_path / "engines"))
    device, trunk = opened["trunk.onnx"]
    assert device == "tensorrt"
    assert trunk.shapes == {"pixels": ((1, 32, 32, 3), (4, 32, 32, 3))}
    assert trunk.engines is not None
    assert trunk.engines.parent == tmp_path / "engines"
    assert not trunk.tf32
    assert opened["tail.colour.onnx"] == ("cuda", Tuning(memory_bytes=9, engines=tmp_path / "engines"))


def test_the_manifest_says_how_a_gpu_computes(opened, tmp_path: Path) -> None:
    """TF32 is for all graphs, float16 is the trunk's alone."""
    folder = bundle(tmp_path)
    write_manifest(folder, read_manifest(folder) | {"precision": "float16", "tf32": True})
    Network(folder, "cuda", 1)
    assert opened["trunk.onnx"] == ("cuda", Tuning(tf32=True, half=True))
    assert opened["tail.colour.onnx"] == ("cuda", Tuning(tf32=True))


def fault(device) -> str | None:
    """Why a device cannot be compared with the CPU here, or None."""
    try:
        resolve(device)
    except DeviceError as error:
        return str(error)
    if device == "tensorrt" and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0":
        return "TensorRT rounds to TF32 unless NVIDIA_TF32_OVERRIDE=0"
    return None


@pytest.mark.parametrize("name", ["cifar10", "clothing"])
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_gpu_gives_what_the_cpu_gives_in_every_bucket(device: str, name: str) -> None:
    """The golden logits are compared at loading; here noise, all outputs, and gradients without TF32."""
    if reason := fault(device):
        pytest.skip(reason)
    network, plain = Network(BUILT_IN / name / "1", device, 1, sizes(6)), Network(BUILT_IN / name / "1", "cpu", 1)
    layer = network.manifest.layer(network.manifest.cam_layer)
    for n in (*sizes(6), 3, 5, 9):
        asked = looks(network, n, *network.cut(layer))
        rows, expected = network.forward(asked), plain.forward(asked)
        for row, other in zip(rows, expected, strict=True):
            for output, array in other.items():
                assert np.abs(row[output] - array).max() <= 1e-3 * np.abs(array).max()
        A = np.stack([row[layer.name] for row in expected])
        seeds = np.random.default_rng(n).standard_normal((n, *network.manifest.logits)).astype(np.float32)
        found, truth = (one.tail(layer, expected[0], A, seeds) for one in (network, plain))
        for output, array in truth.items():
            assert np.abs(found[output] - array).max() <= 1e-3 * np.abs(array).max()
