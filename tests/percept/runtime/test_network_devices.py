"""A network on a GPU: the options of each graph, and the results of the CPU where a GPU works on this machine."""

import os
from pathlib import Path

import numpy as np
import pytest

from percept.errors import DeviceError
from percept.runtime import network as network_module
from percept.runtime.batch_sizes import choose_batch_sizes
from percept.runtime.network import Network
from percept.runtime.providers import Device, GpuOptions
from percept.runtime.session import Session, resolve_device
from percept.settings import BUILT_IN_BUNDLES
from tests.bundles import create_bundle, find_layer, read_manifest_json, write_manifest
from tests.percept.runtime.test_network_batches import SIZES, trunk_inputs

Loaded = dict[str, tuple[Device, GpuOptions]]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """The device and options that each file was loaded with; all of them run on the CPU."""
    recorded: Loaded = {}

    def load(file: Path, device: Device, threads: int, gpu_options: GpuOptions, spin: bool = False) -> Session:
        recorded[file.name] = device, gpu_options
        return Session(file, "cpu", threads)

    monkeypatch.setattr(network_module, "Session", load)
    return recorded


def test_tensorrt_runs_the_trunk_and_cuda_the_tails(loaded: Loaded, tmp_path: Path) -> None:
    options = GpuOptions(memory_bytes=9, engines=tmp_path / "engines")
    Network(create_bundle(tmp_path), "tensorrt", 1, SIZES, options)
    device, trunk = loaded["trunk.onnx"]
    assert device == "tensorrt"
    assert trunk.shapes == {"pixels": ((1, 32, 32, 3), (4, 32, 32, 3))}
    assert trunk.engines is not None
    assert trunk.engines.parent == tmp_path / "engines"
    assert not trunk.tf32
    assert loaded["tail.colour.onnx"] == ("cuda", options)


def test_manifest_determines_tf32_and_float16(loaded: Loaded, tmp_path: Path) -> None:
    """TF32 concerns all graphs, float16 the trunk only."""
    folder = create_bundle(tmp_path)
    write_manifest(folder, read_manifest_json(folder) | {"precision": "float16", "tf32": True})
    Network(folder, "cuda", 1)
    assert loaded["trunk.onnx"] == ("cuda", GpuOptions(tf32=True, half=True))
    assert loaded["tail.colour.onnx"] == ("cuda", GpuOptions(tf32=True))


def skip_reason(device: Device) -> str | None:
    """Why a device cannot be compared with the CPU on this machine, or None."""
    try:
        resolve_device(device)
    except DeviceError as error:
        return str(error)
    if device == "tensorrt" and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0":
        return "TensorRT rounds to TF32 unless NVIDIA_TF32_OVERRIDE=0"
    return None


@pytest.mark.parametrize("name", ["cifar10", "clothing"])
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_gpu_gives_the_results_of_the_cpu(device: Device, name: str) -> None:
    """In every batch size, for noise, with all outputs and gradients; the golden logits are compared while loading."""
    if reason := skip_reason(device):
        pytest.skip(reason)
    sizes = choose_batch_sizes(6)
    network = Network(BUILT_IN_BUNDLES / name / "1", device, 1, sizes)
    cpu = Network(BUILT_IN_BUNDLES / name / "1", "cpu", 1)
    layer = find_layer(network.manifest)
    for n in (*sizes, 3, 5, 9):
        inputs = trunk_inputs(network, n, *network.outputs_for_gradients(layer))
        results, expected = network.run_trunk(inputs), cpu.run_trunk(inputs)
        for outputs, expected_outputs in zip(results, expected, strict=True):
            for output, array in expected_outputs.items():
                assert np.abs(outputs[output] - array).max() <= 1e-3 * np.abs(array).max()
        A = np.stack([outputs[layer.name] for outputs in expected])
        seeds = np.random.default_rng(n).standard_normal((n, *network.manifest.logits)).astype(np.float32)
        found, reference = (one.run_tail(layer, expected[0], A, seeds) for one in (network, cpu))
        for output, array in reference.items():
            assert np.abs(found[output] - array).max() <= 1e-3 * np.abs(array).max()
