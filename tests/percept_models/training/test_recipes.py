"""The recipes of the built-in bundles, and the commands, on networks that were not trained."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from percept.bundle.manifest import read
from percept_models.commands import layers, main
from percept_models.commands import teach as teach_command
from percept_models.training import cifar10
from percept_models.training import recipes as module
from percept_models.training.blocks import fold
from percept_models.training.recipes import RECIPES, bundle, reference
from percept_models.verify.checks import table, verify
from percept_models.visualize.command import Plan


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A test split of four noisy images in the format of CIFAR-10's."""
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
def test_a_recipe_makes_a_bundle_that_verifies(tmp_path: Path, name: str) -> None:
    """Every layer has gradients, and the torch network can be made again from the bundle."""
    torch.manual_seed(0)
    network = fold(RECIPES[name].network().eval())
    folder = bundle(name, network, {}, tmp_path)
    manifest = read(folder)
    assert [layer.unavailable for layer in manifest.layers] == [None] * len(manifest.layers)
    assert len(manifest.palette) in (0, len(manifest.labels))
    checks = verify(folder, reference(folder))
    assert all(check.passed for check in checks), table(checks)


def test_teach_with_weights_measures_and_exports(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command takes a state dict, prints the checks and the figures, draws, and refuses to do it twice."""
    monkeypatch.setattr(module, "visualize", partial(module.visualize, plan=Plan(channels=1, steps=1)))
    torch.manual_seed(0)
    trained, out = tmp_path / "weights.pt", tmp_path / "out"
    torch.save(cifar10.Network().state_dict(), trained)
    arguments = ["cifar10", "--data", str(data), "--out", str(out), "--weights", str(trained)]
    assert teach_command(arguments) == 0
    assert "stage2 gradients" in capsys.readouterr().out
    assert set(read(out / "cifar10" / "1").provenance.metrics) == {"top1"}
    assert {one.layer for one in read(out / "cifar10" / "1").filters} == {None, *RECIPES["cifar10"].layers}
    assert teach_command(arguments) == 1
    assert "exists" in capsys.readouterr().err


def test_the_commands_tell_success_from_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0 for a sound bundle and 1 for a broken or an absent one."""
    torch.manual_seed(0)
    folder = bundle("cifar10", fold(cifar10.Network().eval()), {}, tmp_path)
    assert main(["verify", str(folder)]) == 0
    assert layers([str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "stage1 gradients" in printed
    assert "112x16x16" in printed
    (folder / "weights.bin").write_bytes(b"")
    assert main(["verify", str(folder)]) == 1
    assert main(["layers", str(tmp_path)]) == 1
    assert main(["verify", str(tmp_path), "--against", "nothing"]) == 1
