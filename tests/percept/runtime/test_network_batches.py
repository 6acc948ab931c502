"""A network in batches of fixed sizes: the same results as without, and every size is run before it is used."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from percept.errors import BundleError
from percept.runtime import network as network_module
from percept.runtime.batch_sizes import choose_batch_sizes
from percept.runtime.network import Network, TrunkInput
from percept.runtime.session import Arrays, Session
from percept.settings import BUILT_IN_BUNDLES
from percept_models.export.precision import to_float16
from tests.bundles import create_bundle, find_layer, read_manifest_json, write_manifest

SIZES = choose_batch_sizes(4)
Runs = list[tuple[str, dict[str, int], list[str]]]


def trunk_inputs(network: Network, n: int, *outputs: str) -> list[TrunkInput]:
    rule = network.manifest.preprocessing
    pixels = np.random.default_rng(n).integers(0, 256, (n, rule.height, rule.width, 3), np.uint8)
    return [TrunkInput(one, frozenset(outputs or ("logits",))) for one in pixels]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """All runs of all sessions: the file, the number of rows of every input, and the outputs."""
    recorded: Runs = []

    class RecordingSession(Session):
        def __init__(self, file: Path, *arguments: Any, **options: Any) -> None:
            super().__init__(file, *arguments, **options)
            self.file = file.name

        def run(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> Arrays:
            recorded.append((self.file, {name: len(rows) for name, rows in feeds.items()}, list(outputs)))
            return super().run(feeds, outputs)

    monkeypatch.setattr(network_module, "Session", RecordingSession)
    return recorded


@pytest.mark.parametrize(("name", "counts"), [("cifar10", (1, 3, 4, 5, 9)), ("clothing", (3, 5))])
def test_batches_give_the_outputs_of_each_image_alone(name: str, counts: tuple[int, ...]) -> None:
    """A batch may be padded, full, or split into several."""
    network, plain = (Network(BUILT_IN_BUNDLES / name / "1", "cpu", 1, sizes) for sizes in (SIZES, ()))
    layer = find_layer(network.manifest)
    for n in counts:
        inputs = trunk_inputs(network, n, *network.outputs_for_gradients(layer))
        results = network.run_trunk(inputs)
        assert len(results) == n
        for one, outputs in zip(inputs, results, strict=True):
            (alone,) = plain.run_trunk([one])
            assert set(outputs) == one.outputs
            for output, array in outputs.items():
                np.testing.assert_allclose(array, alone[output], rtol=1e-4, atol=1e-4 * np.abs(array).max())


@pytest.mark.parametrize("name", ["cifar10", "clothing"])
def test_batches_give_the_gradients_of_each_row_alone(name: str) -> None:
    """At every layer, with the tensors that bypass it, and with seeds for later layers."""
    network, plain = (Network(BUILT_IN_BUNDLES / name / "1", "cpu", 1, sizes) for sizes in (choose_batch_sizes(2), ()))
    crossing: list[str] = []
    for layer in network.manifest.layers:
        assert layer.tail
        (outputs,) = plain.run_trunk(trunk_inputs(network, 1, *network.outputs_for_gradients(layer)))
        rng = np.random.default_rng(1)
        A = outputs[layer.name] * rng.uniform(0.5, 1, (3, 1, 1, 1)).astype(np.float32)
        seeds = rng.standard_normal((3, *network.manifest.logits)).astype(np.float32)
        layer_seeds = {later: np.full((1, 1, 1, 1), 0.1, np.float32) for later in layer.tail.seeds}
        result = network.run_tail(layer, outputs, A, seeds, layer_seeds=layer_seeds)
        for k in range(3):
            alone = plain.run_tail(layer, outputs, A[k : k + 1], seeds[k : k + 1], layer_seeds=layer_seeds)
            for output in ("logits", "gradients"):
                limit = 1e-4 * np.abs(alone[output]).max()
                np.testing.assert_allclose(result[output][k], alone[output][0], rtol=1e-4, atol=limit)
        crossing += layer.tail.crossing
    assert bool(crossing) == (name == "clothing")


def test_every_batch_size_is_run_while_loading(runs: Runs, tmp_path: Path) -> None:
    """The trunk with all of its outputs, the tail of the CAM layer with both of its outputs."""
    network = Network(create_bundle(tmp_path), "cpu", 1, SIZES)
    trunk = [(feeds["pixels"], set(outputs)) for file, feeds, outputs in runs if file == "trunk.onnx"]
    assert {n for n, outputs in trunk if outputs == {"logits", "colour"}} == set(SIZES)
    tail = [(feeds["activations"], feeds["seed"], outputs) for file, feeds, outputs in runs if "tail" in file]
    assert tail == [(n, n, ["logits", "gradients"]) for n in reversed(SIZES)]
    runs.clear()
    network.run_trunk(trunk_inputs(network, 7))
    assert [feeds["pixels"] for _, feeds, _ in runs] == [4, 4]
    assert all(outputs == ["logits"] for _, _, outputs in runs)


def test_tail_loaded_later_is_warmed_up(runs: Runs) -> None:
    network = Network(BUILT_IN_BUNDLES / "cifar10" / "1", "cpu", 1, choose_batch_sizes(2))
    layer = find_layer(network.manifest, "image")
    (outputs,) = network.run_trunk(trunk_inputs(network, 1, *network.outputs_for_gradients(layer)))
    runs.clear()
    network.compute_gradients(layer, outputs, np.ones(network.manifest.logits, np.float32))
    assert layer.tail
    tails = [feeds["activations"] for file, feeds, _ in runs if file == layer.tail.file]
    assert tails == [2, 1, 1]


def test_without_batch_sizes_only_the_golden_input_is_run(runs: Runs, tmp_path: Path) -> None:
    network = Network(create_bundle(tmp_path), "cpu", 1)
    assert runs == [("trunk.onnx", {"pixels": 1}, ["logits"])]
    network.run_trunk(trunk_inputs(network, 7))
    assert runs[1][1] == {"pixels": 7}


def test_tail_that_fails_in_a_batch_is_refused(tmp_path: Path) -> None:
    """Its graph reads the eighth row of the batch."""
    folder = create_bundle(tmp_path)
    model = onnx.load(folder / "tail.colour.onnx")
    model.graph.initializer.append(helper.make_tensor("eighth", TensorProto.INT64, [1], [7]))
    model.graph.node[-1].output[0] = "whole"
    model.graph.node.append(helper.make_node("Gather", ["whole", "eighth"], ["eighth_row"]))
    model.graph.node.append(helper.make_node("Mul", ["whole", "eighth_row"], ["gradients"]))
    onnx.save(model, folder / "tail.colour.onnx")
    write_manifest(folder, read_manifest_json(folder), rehash=True)
    with pytest.raises(BundleError, match="the tail of 'colour' cannot be run: ONNX Runtime failed"):
        Network(folder, "cpu", 1, SIZES)
    assert Network(folder, "cpu", 1)


def test_float16_trunk_runs_in_batch_sizes(tmp_path: Path) -> None:
    folder = create_bundle(tmp_path)
    onnx.save(to_float16(onnx.load(folder / "trunk.onnx")), folder / "trunk.onnx")
    golden = {"file": "golden.npz", "tolerance": 3e-2}
    write_manifest(folder, read_manifest_json(folder) | {"precision": "float16", "golden": golden}, rehash=True)
    network, plain = (Network(folder, "cpu", 1, sizes) for sizes in (SIZES, ()))
    inputs = trunk_inputs(network, 7, "logits", "colour")
    for outputs, expected in zip(network.run_trunk(inputs), plain.run_trunk(inputs), strict=True):
        assert outputs["colour"].dtype == outputs["logits"].dtype == np.float32
        np.testing.assert_allclose(outputs["colour"], expected["colour"], atol=1e-3)
