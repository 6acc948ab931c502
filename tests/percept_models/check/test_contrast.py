"""The doubt about guessed mean and std: raised where the logits do not depend on the photo or overflow."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from percept.bundle.preprocessing import Preprocessing
from percept.server.cli import main
from percept_models.check import contrast
from percept_models.check.contrast import describe_doubt, measure_contrast
from percept_models.check.network import Network, open_network
from percept_models.export.options import ExportOptions, parse_preprocessing
from percept_models.sources.preprocessing import merge_preprocessing

# pretrained file → the options that it was trained with
TRAINED = {
    "cifar10_resnet20": "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
    "mobilenet_v1_0.25_128": "--mean 0.5 --std 0.5",
    "tf2_mobilenet_v2_1.0_224": "--mean 0.5 --std 0.5",
    "squeezenet1.0_deepcompression_227": "--channels bgr --mean 104,117,123 --std 1",
    "SINet": "--channels bgr --mean 102.890434,111.25247,126.91212 --std 16048,16019,16743",
}


def doubt(network: Network, preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The doubt about a network with this preprocessing, without exporting it."""
    monkeypatch.setattr(contrast, "open_bundle", lambda folder: replace(network, preprocessing=preprocessing))
    return describe_doubt(Path(), "my network.onnx")


def test_contrast_is_the_spread_over_photos_by_that_over_classes() -> None:
    logits = np.array([[0.0, 2.0], [4.0, 6.0]])  # std over photos 2; mean logits 2 and 4, std 1
    assert measure_contrast(logits) == pytest.approx(2)
    assert measure_contrast(np.array([[1.0, 2.0], [1.0, 2.0]])) == 0
    assert measure_contrast(np.array([[1.0, np.nan], [1.0, 2.0]])) == 0


def test_export_warns_of_a_wrong_normalization(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = ["export", str(colours), "--out", str(tmp_path)]
    assert main([*export, "--name", "guessed"]) == 0
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if " warning " in line]
    assert "hardly depend on the photo" in warning
    assert f"percept check {colours} PHOTO..." in warning
    assert main([*export, "--name", "given", "--mean", "0", "--std", "255", "--range", "255"]) == 0
    assert " warning " not in capsys.readouterr().out


def test_overflowing_logits_cause_a_warning(colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = open_network(ExportOptions(str(colours), "check", Path()), lambda line: None)
    monkeypatch.setattr(contrast, "OVERFLOWING", 20)
    message = doubt(network, network.preprocessing, monkeypatch)
    assert message
    assert "logits reach 3e+01" in message
    assert "percept check 'my network.onnx' PHOTO..." in message


@pytest.mark.prove
@pytest.mark.parametrize("name", TRAINED)
def test_pretrained_files_warn_with_0_to_255_only(shared: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for SqueezeNet: it was trained on 0 to 255, in another order of channels."""
    file = shared / "models" / f"{name}.onnx"
    network = open_network(ExportOptions(str(file), "check", Path()), lambda line: None)
    trained = merge_preprocessing(network.preprocessing, parse_preprocessing(TRAINED[name].split()))
    assert doubt(network, trained, monkeypatch) is None
    assert (doubt(network, network.preprocessing, monkeypatch) is None) == name.startswith("squeezenet")
