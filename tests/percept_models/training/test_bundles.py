"""Bundles of the recipes, made of networks that were not trained."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from percept.bundle.integrity import read_manifest
from percept.server.cli import main
from percept_models.training import bundles, cifar10
from percept_models.training.blocks import fold_batch_norms
from percept_models.training.bundles import export_network, reference_network
from percept_models.training.recipes import RECIPES
from percept_models.verify.bundle import verify_bundle
from percept_models.verify.table import format_checks
from percept_models.visualize.command import visualize
from percept_models.visualize.options import VisualizeOptions


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A test split of four noise images in the format of CIFAR-10's."""
    folder = tmp_path / "data"
    folder.mkdir()
    files = []
    for seed in range(4):
        buffer = io.BytesIO()
        noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(noise).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    np.savez(
        folder / "test.npz",
        jpeg=np.frombuffer(b"".join(files), np.uint8),
        offset=np.cumsum([0, *map(len, files)]),
        label=np.arange(4, dtype=np.uint8),
    )
    return folder


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_makes_a_bundle_that_passes(tmp_path: Path, name: str) -> None:
    """Every layer has gradients, and the torch network is made again from the bundle."""
    torch.manual_seed(0)
    network = fold_batch_norms(RECIPES[name].network().eval())
    folder = export_network(name, network, {}, tmp_path)
    manifest = read_manifest(folder)
    assert [layer.unavailable for layer in manifest.layers] == [None] * len(manifest.layers)
    assert len(manifest.palette) in (0, len(manifest.labels))
    checks = verify_bundle(folder, reference_network(folder))
    assert all(check.passed for check in checks), format_checks(checks)


def test_teach_with_weights_measures_and_exports(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It prints the checks and how to serve the bundle, draws filter pictures, and overwrites nothing."""
    quick = partial(visualize, options=VisualizeOptions(channels=1, steps=1))
    monkeypatch.setattr(bundles, "visualize", quick)
    torch.manual_seed(0)
    trained, out = tmp_path / "weights.pt", tmp_path / "out"
    torch.save(cifar10.Network().state_dict(), trained)
    arguments = ["teach", "cifar10", "--data", str(data), "--out", str(out), "--weights", str(trained)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "stage2 gradients" in printed
    assert printed.splitlines()[-1].endswith(f"PERCEPT_MODELS={out} percept serve")
    manifest = read_manifest(out / "cifar10" / "1")
    assert set(manifest.provenance.metrics) == {"top1"}
    assert {picture.layer for picture in manifest.filters} == {None, *RECIPES["cifar10"].description.layers}
    assert main(arguments) == 1
    assert "exists" in capsys.readouterr().err
