"""Weights from files: which formats are read, and which weights are refused."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from percept.errors import BundleError
from percept_models.sources.state_dict import ENVELOPES, load_weights
from tests.percept_models.networks import Classifier


def changed_state() -> dict[str, torch.Tensor]:
    """A state dict that differs from a new classifier's in every number."""
    return {key: value + 1 for key, value in Classifier().state_dict().items()}


def saved(folder: Path, content: object) -> Path:
    torch.save(content, folder / "w.pt")
    return folder / "w.pt"


def is_changed(network: nn.Module, prefix: str = "") -> bool:
    """Whether a network has the changed state under a prefix."""
    state = network.state_dict()
    return all(torch.equal(state[prefix + key], value) for key, value in changed_state().items())


@pytest.mark.parametrize("envelope", [None, *ENVELOPES])
def test_weights_are_found_in_every_envelope(tmp_path: Path, envelope: str | None) -> None:
    content = {envelope: changed_state(), "epoch": 3} if envelope else changed_state()
    network = Classifier()
    assert load_weights(network, saved(tmp_path, content)) == ()
    assert is_changed(network)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "net.", "network.", "module._orig_mod.", "model._orig_mod.module."]
)
def test_prefixes_of_wrappers_are_removed(tmp_path: Path, prefix: str) -> None:
    network = Classifier()
    load_weights(network, saved(tmp_path, {"state_dict": {prefix + k: v for k, v in changed_state().items()}}))
    assert is_changed(network)


@pytest.mark.parametrize("name", ["module", "_orig_mod", "model", "net"])
def test_prefix_that_the_network_has_is_kept(tmp_path: Path, name: str) -> None:
    network = nn.Module()
    network.add_module(name, Classifier())
    load_weights(network, saved(tmp_path, {f"{name}.{key}": value for key, value in changed_state().items()}))
    assert is_changed(network, f"{name}.")


def test_wrapper_inside_of_a_name_is_removed(tmp_path: Path) -> None:
    """`DataParallel` of one stage, as in the recipes of AlexNet and VGG."""
    state = {key.replace("stage1.", "stage1.module."): value for key, value in changed_state().items()}
    network = Classifier()
    load_weights(network, saved(tmp_path, state))
    assert is_changed(network)


def test_other_tensors_of_lightning_are_left_out(tmp_path: Path) -> None:
    state = {f"model.{key}": value for key, value in changed_state().items()} | {"criterion.weight": torch.ones(5)}
    network = Classifier()
    load_weights(network, saved(tmp_path, {"state_dict": state, "pytorch-lightning_version": "2.5"}))
    assert is_changed(network)


def test_averaged_weights_come_first_and_are_named(tmp_path: Path) -> None:
    content = {"model": Classifier().state_dict(), "ema": changed_state()}
    network = Classifier()
    (note,) = load_weights(network, saved(tmp_path, content))
    assert note == "of the weights in w.pt those under 'ema' were taken, not 'model'"
    assert is_changed(network)


def test_weights_that_fit_come_before_those_that_do_not(tmp_path: Path) -> None:
    content = {"ema": {"shadow.weight": torch.ones(2)}, "model": {"state_dict": changed_state()}}
    network = Classifier()
    (note,) = load_weights(network, saved(tmp_path, content))
    assert "those under 'model.state_dict' were taken, not 'ema'" in note
    assert is_changed(network)


def test_values_beside_the_weights_are_read(tmp_path: Path) -> None:
    """As argparse, NumPy and pathlib store them; torch alone refuses the file."""
    content = {
        "model": changed_state(),
        "args": Namespace(lr=0.1, data=tmp_path),
        "best": np.float64(0.9),
        "step": np.int64(3),
        "curve": np.arange(3.0),
    }
    network = Classifier()
    load_weights(network, saved(tmp_path, content))
    assert is_changed(network)


def test_arrays_of_numpy_are_weights_too(tmp_path: Path) -> None:
    network = Classifier()
    load_weights(network, saved(tmp_path, {key: value.numpy() for key, value in changed_state().items()}))
    assert is_changed(network)


def test_missing_batch_counters_are_accepted(tmp_path: Path) -> None:
    """Files of torch 0.4 lack `num_batches_tracked`."""
    state = {k: v for k, v in nn.BatchNorm2d(2).state_dict().items() if k != "num_batches_tracked"}
    load_weights(nn.BatchNorm2d(2), saved(tmp_path, state))


class Extra:
    """An object of a class that torch does not know."""


REFUSED_FILES = [
    (lambda file: torch.save(Classifier(), file), r"whole pickled network \(tests\..*torch\.save\(network\.state_dict"),
    (lambda file: torch.save({"model": Classifier()}, file), "whole pickled network"),
    (lambda file: torch.save({"model": changed_state(), "x": Extra()}, file), r"object of tests.*Extra.*state_dict"),
    (lambda file: torch.jit.script(nn.ReLU()).save(str(file)), r"TorchScript archive.*torch\.jit\.load"),
    (lambda file: torch.export.save(torch.export.export(nn.ReLU(), (torch.ones(1),)), file), "exported program"),
    (lambda file: torch.save({"epoch": 3}, file), "holds no state dict"),
    (lambda file: file.write_bytes(b"no weights"), "cannot be read as weights"),
    (lambda file: None, "does not exist"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("write", "reason"), REFUSED_FILES)
def test_other_files_are_refused_with_the_remedy(tmp_path: Path, write: Callable[[Path], object], reason: str) -> None:
    write(tmp_path / "w.pt2")
    with pytest.raises(BundleError, match=reason):
        load_weights(Classifier(), tmp_path / "w.pt2")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "harmed",)

    with pytest.raises(BundleError, match="may be code"):
        load_weights(Classifier(), saved(tmp_path, {"model": changed_state(), "args": Harmful()}))
    assert not (tmp_path / "harmed").exists()


def test_safetensors_file_is_loaded(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(changed_state(), tmp_path / "w.safetensors")
    network = Classifier()
    load_weights(network, tmp_path / "w.safetensors")
    assert torch.equal(network.state_dict()["head.bias"], changed_state()["head.bias"])


UNFIT_CHANGES = [
    ({}, "missing"),
    ({"extra.weight": torch.zeros(1)}, "left over"),
    ({"head.bias": torch.zeros(99)}, r"'head.bias' has the shape \[99\] in the file and \[5\] in the network"),
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
