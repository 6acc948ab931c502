"""Files of weights: torch's and safetensors, read without running code that they hold.

In comes a file; out comes the object that it holds, in which `percept_models.sources.state_dict` finds the weights. A
file that cannot be read without running code is refused with a sentence on how to save the weights alone.
"""

import pathlib
import re
import zipfile
from argparse import Namespace
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from percept.errors import BundleError, first_line

SAVE_STATE_DICT = "save its state dict where it was made, torch.save(network.state_dict(), 'weights.pt')"
ARCHIVES = {  # a member of the ZIP file → what the file is, and how to get its weights
    "constants.pkl": "a TorchScript archive: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')",
    "serialized_exported_program.json": "an exported program: torch.save(torch.export.load(FILE).state_dict, "
    "'weights.pt')",
    "archive_format": "an exported program: torch.save(torch.export.load(FILE).state_dict, 'weights.pt')",
}
UNSAFE_GLOBAL = re.compile(r"GLOBAL ([\w.]+) was not an allowed global|[Uu]nsupported (?:global|class) ([\w.]+)")

# What training scripts store beside the weights, and torch does not allow by itself: plain values, no code. Files name
# NumPy's functions by the modules of NumPy 1 or 2, and Lightning's dictionary by that of its version.
ATTRIBUTE_DICT_MODULES = (
    "lightning.fabric.utilities.data",
    "lightning.pytorch.utilities.parsing",
    "lightning_fabric.utilities.data",
    "pytorch_lightning.utilities.parsing",
)
NUMPY_SCALAR, NUMPY_ARRAY = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]  # they make what is unpickled
SAFE_GLOBALS: list[Any] = [
    Namespace,
    np.dtype,
    np.ndarray,
    *(getattr(np.dtypes, name) for name in np.dtypes.__all__),
    *((NUMPY_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((NUMPY_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((pathlib.PurePosixPath, f"pathlib{local}.PosixPath") for local in ("", "._local")),
    *((pathlib.PureWindowsPath, f"pathlib{local}.WindowsPath") for local in ("", "._local")),
    *((dict, f"{module}.AttributeDict") for module in ATTRIBUTE_DICT_MODULES),
]


def read_checkpoint(file: Path) -> Any:
    """The Python object that a file holds; raises `BundleError` with the remedy where the file cannot be read."""
    if not file.is_file():
        raise BundleError(f"the file of weights {file} does not exist")
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    _reject_archive(file)
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise errors of every type
        raise BundleError(_explain(file, error)) from error


def _read_safetensors(file: Path) -> Any:
    try:
        return import_module("safetensors.torch").load_file(file)
    except ImportError as error:
        raise BundleError(f"{file.name} needs the package safetensors") from error
    except Exception as error:  # safetensors' own error derives from Exception
        raise BundleError(f"{file.name} cannot be read as safetensors: {first_line(error)}") from error


def _reject_archive(file: Path) -> None:
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        members = {name.rpartition("/")[2] for name in archive.namelist()}
    for member, description in ARCHIVES.items():
        if member in members:
            kind, command = description.split(": ", 1)
            raise BundleError(f"{file.name} is {kind}, not a state dict: make one by {command}")


def _explain(file: Path, error: Exception) -> str:
    """Why torch refuses a file: a pickled network, or other objects beside the weights."""
    unsafe = _unsafe_globals(file, error)
    if any(name.startswith("torch.nn.modules.") for name in unsafe):
        others = [name for name in unsafe if not name.startswith(("torch.", "collections."))]
        kind = f" ({others[0]})" if others else ""
        return f"{file.name} holds a whole pickled network{kind}, which is code: {SAVE_STATE_DICT}"
    if unsafe:
        return f"{file.name} holds an object of {min(unsafe)} that may be code: {SAVE_STATE_DICT}"
    return f"{file.name} cannot be read as weights of torch or safetensors: {first_line(error)}"


def _unsafe_globals(file: Path, error: Exception) -> set[str]:
    """The classes and functions in a file that torch does not allow; of old files only the first is known."""
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            found: Iterable[str] = torch.serialization.get_unsafe_globals_in_checkpoint(file)
            return set(found)
    except Exception:  # not a ZIP file
        match = UNSAFE_GLOBAL.search(str(error))
        return {name for name in match.groups() if name} if match else set()
