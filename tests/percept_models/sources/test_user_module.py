"""Networks in the user's own modules come before installed packages of the same name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from percept.bundle.integrity import read_manifest
from percept.errors import BundleError
from percept_models.sources.torch_source import SourceRequest
from percept_models.sources.user_module import load_user_network

NETWORK = """
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
"""
MODULES = ("models.net", "service.nets.small.net", "tests.net", "net")
IMPORT_ALL = """
import sys
from pathlib import Path
from percept_models.sources.user_module import import_user_module

for name in sys.argv[1:]:
    assert Path(import_user_module(name).__file__).is_relative_to(Path.cwd()), name
"""


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A folder of a user's, whose modules have the names of installed packages."""
    for name in MODULES:
        file = tmp_path.joinpath("user", *name.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(NETWORK)
        package = tmp_path / "installed" / name.partition(".")[0]
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('this is not the module of the user')")
    return tmp_path / "user"


def run(command: list[str], user: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(user.parent / "installed"), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=user, env=environ, check=True)


@pytest.mark.parametrize("init", [True, False], ids=["init", "no init"])
def test_user_modules_hide_installed_packages(user: Path, init: bool) -> None:
    if init:
        for folder in (folder for folder in user.rglob("*") if folder.is_dir()):
            (folder / "__init__.py").touch()
    run([sys.executable, "-c", IMPORT_ALL, *MODULES], user)


def test_command_exports_a_network_of_the_user(user: Path) -> None:
    command = [str(Path(sys.executable).with_name("percept")), "export", "models.net:small", "--name", "mine"]
    run([*command, "--size", "16", "--out", "bundles"], user)
    assert read_manifest(user / "bundles" / "mine" / "1").provenance.source == "models.net:small"


def compiled() -> nn.Module:
    """A network behind `torch.compile`."""
    wrapper: nn.Module = torch.compile(nn.Conv2d(3, 2, 3))  # type: ignore[assignment]
    return wrapper


def scripted() -> nn.Module:
    """A network in TorchScript."""
    module: nn.Module = torch.jit.trace(nn.Conv2d(3, 2, 3).eval(), torch.zeros(1, 3, 8, 8))
    return module


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own imports
def test_compiled_network_is_what_was_compiled() -> None:
    network = load_user_network(__name__, SourceRequest("compiled", {}, "default")).network
    assert type(network) is nn.Conv2d


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
def test_torchscript_network_is_refused() -> None:
    with pytest.raises(BundleError, match="returns TorchScript, not a torch"):
        load_user_network(__name__, SourceRequest("scripted", {}, "default"))
