"""Families of networks become bundles: exported, verified against PyTorch's autograd, loaded by the server.

Weights are random and images small. Most run under `make prove` only: each takes seconds to trace.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.family_speed import FAMILIES, export_family, load_bundle
from percept.explain.maps import gradcam
from percept.runtime.network import Network, TrunkInput
from percept.tasks.table import TASKS
from percept_models.export.convert import convert
from percept_models.export.options import ExportOptions
from percept_models.sources.libraries import load_source
from percept_models.sources.trunk import Trunk
from percept_models.verify.bundle import verify_bundle
from percept_models.verify.checks import difference
from tests.method_runs import GRADIENT_METHODS

QUICK = {"SqueezeNet", "LR-ASPP"}
ROWS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.prove) for name in FAMILIES]


@pytest.mark.parametrize("family", ROWS)
def test_family_becomes_a_bundle(family: str, tmp_path: Path) -> None:
    """The export verifies logits within 1e-4 and gradients within 1e-5 of torch at every layer."""
    folder = export_family(family, FAMILIES[family].small, tmp_path)
    network, layers = load_bundle(folder)
    assert layers[0] != layers[1]
    assert [layer.unavailable for layer in network.manifest.layers] == [None] * len(network.manifest.layers)
    pixels = np.random.default_rng(0).integers(0, 256, (FAMILIES[family].small, FAMILIES[family].small, 3), np.uint8)
    for layer in layers:
        (outputs,) = network.run_trunk([TrunkInput(pixels, network.outputs_for_gradients(layer))])
        g = network.compute_gradients(layer, outputs, np.ones(network.manifest.logits, np.float32))
        assert g.any()
        assert GRADIENT_METHODS["gradcam"](outputs[layer.name], g).shape == layer.shape[1:]


def test_verification_of_a_family_can_fail(tmp_path: Path) -> None:
    """Against other weights."""
    from benchmarks.family_speed import create_network

    folder = export_family("SqueezeNet", 65, tmp_path)
    other = create_network("SqueezeNet", 65)
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    assert [check for check in verify_bundle(folder, other) if not check.passed]


def test_pyramid_levels_have_the_grad_cam_of_torch(tmp_path: Path) -> None:
    """Before the map's ReLU, at the encoder, the pyramid and the merged levels of smp's FPN."""
    source = "smp:FPN?encoder_name=resnet18&classes=4"
    encoder = tuple(f"encoder.layer{i}" for i in (1, 2, 3, 4))
    levels = (*encoder, *(f"decoder.p{i}" for i in (5, 4, 3, 2)), *(f"decoder.seg_blocks.{i}" for i in range(4)))
    given = {"height": 64, "width": 64, "resize": "squeeze"}
    folder = convert(
        ExportOptions(source, "fpn", out=tmp_path, weights="none", layers=levels, preprocessing=given), print
    )
    network = Network(folder, "cpu", 1)
    manifest, task = network.manifest, TASKS["segmentation"]
    assert [layer.name for layer in manifest.layers if layer.tail] == ["image", *levels]
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    names = frozenset().union(*map(network.outputs_for_gradients, manifest.layers))
    (outputs,) = network.run_trunk([TrunkInput(pixels, names)])
    seed = task.seed(manifest, outputs["logits"], task.targets(manifest, outputs["logits"], None)[0], None)
    trunk = Trunk(load_source(source, "none").network, manifest.preprocessing, levels)
    logits, *taps = trunk(torch.from_numpy(pixels[None]))
    gradients = torch.autograd.grad((logits * torch.from_numpy(seed)).sum(), taps)
    for layer, A, g in zip(manifest.layers[1:], taps, gradients, strict=True):
        expected = (g.mean((2, 3), keepdim=True) * A).sum(1)[0].detach().numpy()
        found = gradcam(outputs[layer.name], network.compute_gradients(layer, outputs, seed))
        assert difference(found, expected) < 1e-4, layer.name


def test_every_family_is_documented() -> None:
    """With its source and size."""
    text = (Path(__file__).parents[3] / "docs" / "export.md").read_text()
    for name, family in FAMILIES.items():
        assert f"| {name} | `{family.source}` | {family.size} |" in text
