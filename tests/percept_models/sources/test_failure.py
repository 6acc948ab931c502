"""Failures of torch, of libraries and of the user's code, in one line that names the cause."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn

from percept.bundle.preprocessing import Preprocessing
from percept_models.sources.failure import explain_failure, explain_import, explain_loading
from percept_models.sources.trunk import trace
from percept_models.sources.user_module import import_user_module

WEIGHT, BIAS = torch.ones(2, 3, 1, 1), torch.zeros(2)


class Function(nn.Module):
    """A network that computes a function of the pooled image."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.function(x.mean((2, 3)))


class TwoInputs(nn.Module):
    """A network of an image and a number."""

    def forward(self, x: Tensor, age: Tensor) -> Tensor:
        """Compute the output."""
        return x.mean((2, 3)) + age


def fail_to_trace(network: nn.Module) -> str:
    """The explanation of why a network cannot be exported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception) as caught:  # noqa: PT011 (torch raises errors of every type)
            trace(network, Preprocessing(height=16, width=16), [])
    return explain_failure(caught.value)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Function(torch.special.bessel_j0), "ONNX has no operator for prims.bessel_j0: write this part"),
        (Function(lambda x: x if x.sum() > 0 else -x), "its code depends on the values of a tensor"),
        (Function(nn.Linear(5, 2)), "a linear layer needs maps of another size: choose --size (mat1 and mat2"),
        (Function(lambda x: x.reshape(2, 7)), "its code fixes the number or the size of the images (shape '[2, 7]'"),
        (Function(lambda x: x + torch.ones(2, 3)), "its code fixes the number of images in a batch"),
        (Function(lambda x: nn.functional.conv2d(x.double(), WEIGHT, BIAS)), "its code casts tensors to another type"),
        (TwoInputs(), "TwoInputs.forward needs further inputs ('age')"),
    ],
    ids=["operator", "branch", "size", "reshape", "batch", "type", "inputs"],
)
def test_failure_of_torch_names_its_cause(network: nn.Module, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail_to_trace(network).startswith(reason)
    assert "def forward" not in capsys.readouterr().err


def test_unknown_failure_is_its_first_line() -> None:
    assert explain_failure(RuntimeError("\x1b[31mtoo hot\x1b[0m\nfurther down")) == "too hot"


@pytest.mark.parametrize(
    ("text", "module", "reason"),
    [
        ("import notapackage.part", "mine", "mine imports notapackage, which is neither in {} nor among the installed"),
        ("from json import lods", "mine", "cannot import name 'lods' from 'json'"),
        ("", "mine.part", "there is no module mine.part, neither in {} nor among the installed packages"),
    ],
)
def test_missing_package_differs_from_missing_module(
    text: str, module: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ImportError) as caught:
        import_user_module(module)
    assert explain_import(caught.value, module).startswith(reason.format(tmp_path))


def test_failed_download_names_the_alternatives() -> None:
    assert "use --weights FILE or --weights none" in explain_loading(URLError("no route"))
