"""Weights from files: which formats are read, and which weights are refused."""

from pathlib import Path

import pytest
import torch

from percept.errors import BundleError
from percept_models.sources.state_dict import load_weights
from tests.percept_models.networks import Classifier


def changed_state() -> dict[str, torch.Tensor]:
    """A state dict that differs from a new classifier's in every number."""
    return {key: value + 1 for key, value in Classifier().state_dict().items()}


@pytest.mark.parametrize("envelope", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_file_is_loaded_without_its_wrappers(tmp_path: Path, envelope: str | None, prefix: str) -> None:
    state = {prefix + key: value for key, value in changed_state().items()}
    torch.save({envelope: state} if envelope else state, tmp_path / "w.pt")
    network = Classifier()
    load_weights(network, tmp_path / "w.pt")
    assert all(torch.equal(network.state_dict()[key], value) for key, value in changed_state().items())


def test_safetensors_file_is_loaded(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(changed_state(), tmp_path / "w.safetensors")
    network = Classifier()
    load_weights(network, tmp_path / "w.safetensors")
    assert torch.equal(network.state_dict()["head.bias"], changed_state()["head.bias"])


UNFIT_CHANGES = [
    ({}, "missing"),
    ({"extra.weight": torch.zeros(1)}, "left over"),
    ({"head.bias": torch.zeros(99)}, "size mismatch"),
    ({"head.bias": "text"}, "no state dict"),
]


@pytest.mark.parametrize(("change", "reason"), UNFIT_CHANGES)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    state = Classifier().state_dict() | change
    if not change:
        del state["head.bias"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(BundleError, match=reason):
        load_weights(Classifier(), tmp_path / "w.pt")


def test_auxiliary_heads_may_be_left_over(tmp_path: Path) -> None:
    """The files of torchvision's GoogLeNet and FCN contain them."""
    torch.save(Classifier().state_dict() | {"aux1.weight": torch.zeros(1)}, tmp_path / "w.pt")
    load_weights(Classifier(), tmp_path / "w.pt")
