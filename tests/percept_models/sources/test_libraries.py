"""Where torch networks come from, what is guessed of them, and how bad sources are refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from percept.errors import BundleError
from percept_models.sources.libraries import SOURCES, load
from tests.percept_models.networks import Classifier


def factory(classes: int = 5) -> nn.Module:
    """As a user would write one."""
    return Classifier(classes)


def tensor() -> torch.Tensor:
    """No network."""
    return torch.zeros(1)


HERE = "tests.percept_models.sources.test_libraries"


def test_torchvision_says_how_a_photo_is_prepared() -> None:
    """Size, crop, mean, std and labels are those of the weights that torchvision would take."""
    source = load("torchvision:squeezenet1_1", "none")
    how = source.preprocessing
    assert (how.height, how.width, how.resize, how.short_side, how.interpolation) == (224, 224, "crop", 256, "bilinear")
    assert how.mean == pytest.approx((123.675, 116.28, 103.53))
    assert source.labels[281:283] == ("tabby", "tiger cat")
    assert not source.network.training


def test_torchvisions_segmenters_see_the_whole_photo() -> None:
    """Their preset crops nothing; VOC's labels begin with the background."""
    source = load("torchvision:lraspp_mobilenet_v3_large", "none")
    assert (source.preprocessing.resize, source.preprocessing.height) == ("squeeze", 520)
    assert source.labels[0] == "__background__"
    assert len(source.labels) == 21


def test_timm_says_how_a_photo_is_prepared() -> None:
    """A crop percentage becomes the length of the short side; the labels are ImageNet's."""
    source = load("timm:resnet10t", "none")
    how = source.preprocessing
    assert (how.height, how.resize, how.short_side, how.interpolation) == (176, "crop", 201, "bicubic")
    assert source.license == "apache-2.0"
    assert len(source.labels) == 1000


def test_arguments_reach_the_library() -> None:
    """Numbers as numbers, words as words."""
    source = load("smp:FPN?encoder_name=mobilenet_v2&classes=7", "none")
    assert source.network(torch.zeros(1, 3, 64, 64)).shape == (1, 7, 64, 64)
    assert load(f"{HERE}:factory?classes=3").network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_random_weights_are_the_same_every_time() -> None:
    """So that a bundle can be compared with its source again."""
    one, two = (load("torchvision:squeezenet1_1", "none").network.state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("envelope", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_come_from_a_file(tmp_path: Path, envelope: str | None, prefix: str) -> None:
    """A state dict, whatever a training script put around it."""
    state = {prefix + key: value + 1 for key, value in Classifier().state_dict().items()}
    torch.save({envelope: state} if envelope else state, tmp_path / "w.pt")
    found = load(f"{HERE}:factory", str(tmp_path / "w.pt")).network.state_dict()
    assert all(torch.equal(found[key], value + 1) for key, value in Classifier().state_dict().items())


def test_safetensors_are_weights_too(tmp_path: Path) -> None:
    """The format of timm's and Hugging Face's files."""
    from safetensors.torch import save_file

    save_file({key: value + 1 for key, value in Classifier().state_dict().items()}, tmp_path / "w.safetensors")
    found = load(f"{HERE}:factory", str(tmp_path / "w.safetensors")).network.state_dict()
    assert torch.equal(found["head.bias"], Classifier().state_dict()["head.bias"] + 1)


BAD = [
    ("resnet18", "none", "is no source"),
    ("torchvision:resnet0", "none", "resnet0"),
    ("torchvision:resnet18?nonsense=1", "none", "nonsense"),
    ("timm:resnet0", "none", "resnet0"),
    ("smp:FPN", "default", "--weights FILE or none"),
    ("absent.module:factory", "default", "not installed"),
    (f"{HERE}:absent", "default", "absent"),
    (f"{HERE}:tensor", "default", "returns Tensor"),
    (f"{HERE}:factory", "absent.pt", "absent.pt"),
]


@pytest.mark.parametrize(("source", "weights", "why"), BAD)
def test_a_bad_source_is_refused(source: str, weights: str, why: str) -> None:
    """With one line that says what is wrong."""
    with pytest.raises(BundleError, match=why) as caught:
        load(source, weights)
    assert "\n" not in str(caught.value)


WRONG = [
    ({}, "missing"),
    ({"extra.weight": torch.zeros(1)}, "left over"),
    ({"head.bias": torch.zeros(99)}, "size mismatch"),
    ({"head.bias": "text"}, "no state dict"),
]


@pytest.mark.parametrize(("change", "why"), WRONG)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, object], why: str) -> None:
    """Missing, left over, of another shape, or no weights at all."""
    state = Classifier().state_dict() | change
    if not change:
        del state["head.bias"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(BundleError, match=why):
        load(f"{HERE}:factory", str(tmp_path / "w.pt"))


def test_heads_that_only_training_needs_may_be_left_over(tmp_path: Path) -> None:
    """The files of torchvision's GoogLeNet and FCN hold them."""
    torch.save(Classifier().state_dict() | {"aux1.weight": torch.zeros(1)}, tmp_path / "w.pt")
    load(f"{HERE}:factory", str(tmp_path / "w.pt"))


def test_every_library_has_a_test() -> None:
    """A new row needs one too."""
    assert set(SOURCES) == {"torchvision", "timm", "smp"}
