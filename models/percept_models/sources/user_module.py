"""Networks from a user's module: the working directory comes before every installed package.

`models`, `service` and `tests` are common folder names: an installed package of the same name must not hide them.
"""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from percept.errors import BundleError, did_you_mean
from percept_models.sources.preprocessing import guess_preprocessing
from percept_models.sources.torch_source import SourceRequest, TorchSource

SIZE = 224  # the guess for the height and width of the input


def load_user_network(module: str, request: SourceRequest) -> TorchSource:
    """The network that `module.path:factory` returns, with the factory's own weights unless the user gives a file."""
    namespace = vars(import_user_module(module))
    if request.name not in namespace:
        functions = [name for name, value in namespace.items() if callable(value) and not name.startswith("_")]
        raise BundleError(f"the module {module} has no {request.name!r}{did_you_mean(request.name, functions)}")
    network = namespace[request.name](**request.arguments)
    network = getattr(network, "_orig_mod", network)  # what torch.compile was given: its wrapper cannot be traced
    if not isinstance(network, nn.Module) or isinstance(network, torch.jit.ScriptModule):
        kind = "TorchScript" if isinstance(network, nn.Module) else type(network).__name__
        raise BundleError(f"{module}:{request.name} returns {kind}, not a torch.nn.Module of Python code")
    weights = "as made by the factory" if request.pretrained else request.weights
    return TorchSource(network, guess_preprocessing(SIZE), weights)


def import_user_module(name: str) -> ModuleType:
    """Import a module by its dotted name, from the working directory if it is there."""
    folder = Path.cwd()
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))
    _declare_namespace_package(name, folder)
    return import_module(name)


def _declare_namespace_package(name: str, folder: Path) -> None:
    """Declare the package of a module in `folder` that has no `__init__.py`.

    Python prefers a package with `__init__.py` anywhere on `sys.path` to a folder without one (PEP 420).
    """
    package = name.partition(".")[0]
    path, module = folder / package, folder.joinpath(*name.split("."))
    exists = module != path and (module.is_dir() or module.with_suffix(".py").is_file())
    is_importable = (path / "__init__.py").exists() or path.with_suffix(".py").exists()
    if exists and not is_importable and package not in sys.modules:
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(path)]
