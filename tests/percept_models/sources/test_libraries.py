"""Sources of torch networks: what is guessed about each, and how invalid sources are refused."""

import copy
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from percept.errors import BundleError
from percept_models.sources.libraries import SOURCES, load_source
from tests.percept_models.networks import Classifier


def factory(classes: int = 5) -> nn.Module:
    """A factory as a user would write one."""
    return Classifier(classes)


def tensor() -> torch.Tensor:
    """A factory that returns no network."""
    return torch.zeros(1)


HERE = "tests.percept_models.sources.test_libraries"


def test_torchvision_states_the_preprocessing() -> None:
    source = load_source("torchvision:squeezenet1_1", "none")
    guess = source.preprocessing
    assert (guess.height, guess.width, guess.resize, guess.resize_size) == (224, 224, "crop", (256, 256))
    assert guess.interpolation == "bilinear"
    assert guess.mean == pytest.approx((123.675, 116.28, 103.53))
    assert source.labels[281:283] == ("tabby", "tiger cat")
    assert not source.network.training


def test_torchvision_segmenters_get_the_whole_photo() -> None:
    """Their transforms have no crop, and keep the proportions; VOC's labels begin with the background."""
    source = load_source("torchvision:lraspp_mobilenet_v3_large", "none")
    assert (source.preprocessing.resize, source.preprocessing.height) == ("squeeze", 520)
    assert "keeps the proportions" in source.notes[0]
    assert source.labels[0] == "__background__"
    assert len(source.labels) == 21


def test_timm_states_the_preprocessing() -> None:
    """A crop percentage becomes the size before the crop; the labels are ImageNet's."""
    source = load_source("timm:resnet10t", "none")
    guess = source.preprocessing
    assert (guess.height, guess.resize, guess.resize_size, guess.interpolation) == (176, "crop", (201, 201), "bicubic")
    assert source.crop_pct == 0.875
    assert source.license == "apache-2.0"
    assert len(source.labels) == 1000


def test_arguments_reach_the_library_as_literals_or_text() -> None:
    source = load_source("smp:FPN?encoder_name=mobilenet_v2&classes=7", "none")
    assert source.network(torch.zeros(1, 3, 64, 64)).shape == (1, 7, 64, 64)
    assert load_source(f"{HERE}:factory?classes=3").network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_random_weights_are_the_same_every_time() -> None:
    """A bundle can be compared with its source again."""
    first, second = (load_source("torchvision:squeezenet1_1", "none").network.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


INVALID_SOURCES = [
    ("resnet18", "none", "is not a source"),
    ("torchvision:resnet5O", "none", "torchvision has no network 'resnet5O'; did you mean resnet50"),
    ("torchvision:fasterrcnn_resnet50_fpn", "none", "is for object detection: only classifiers and segmenters"),
    ("torchvision:raft_small", "none", "is for optical flow: only classifiers and segmenters"),
    ("torchvision:resnet18?nonsense=1", "none", "nonsense"),
    ("timm:resnet5O", "none", "timm has no network 'resnet5O'; did you mean resnet50"),
    ("smp:FPN", "default", "--weights FILE or none"),
    ("absent.module:factory", "default", "there is no module absent, neither in .* nor among the installed packages"),
    (f"{HERE}:factry", "default", "has no 'factry'; did you mean factory"),
    (f"{HERE}:tensor", "default", "returns Tensor"),
    (f"{HERE}:factory", "absent.pt", "absent.pt"),
]


def normalized() -> nn.Module:
    """A network with weight normalization in torch's old form."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        convolution = nn.utils.weight_norm(nn.Conv2d(3, 4, 3), dim=0)
        return nn.Sequential(convolution, nn.utils.weight_norm(nn.Linear(6, 5)))


def test_old_weight_norm_becomes_a_plain_weight(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = normalized().eval()
    x = torch.rand(2, 3, 8, 8)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    loaded = load_source(f"{HERE}:normalized", str(tmp_path / "weights.pt")).network
    torch.testing.assert_close(copy.deepcopy(loaded)(x), network(x), rtol=0, atol=1e-6)
    assert sorted(loaded.state_dict()) == ["0.bias", "0.weight", "1.bias", "1.weight"]


@pytest.mark.parametrize(("source", "weights", "reason"), INVALID_SOURCES)
def test_invalid_source_is_refused_in_one_line(source: str, weights: str, reason: str) -> None:
    with pytest.raises(BundleError, match=reason) as caught:
        load_source(source, weights)
    assert "\n" not in str(caught.value)


def test_every_library_has_a_test() -> None:
    assert set(SOURCES) == {"torchvision", "timm", "smp"}


def half_factory() -> nn.Module:
    """A factory of a network in float16."""
    return Classifier().half()


def test_network_of_another_type_becomes_float32() -> None:
    source = load_source(f"{HERE}:half_factory")
    assert {tensor.dtype for tensor in source.network.parameters()} == {torch.float32}
    assert source.notes == ("its float16 weights became float32",)
