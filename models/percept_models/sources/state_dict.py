"""State dicts in files of torch or safetensors, loaded into a network."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from percept.errors import BundleError, first_line

ENVELOPES = ("state_dict", "model_state_dict", "model")  # the keys under which training scripts store the weights


def load_weights(network: nn.Module, file: Path) -> None:
    """Load a file into a network.

    No parameter may be missing; only the heads that training alone needs (`aux...`) may be left over. Raises
    `BundleError` where the weights do not fit or cannot be read.
    """
    try:
        result = network.load_state_dict(read_state_dict(file), strict=False)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise BundleError(f"the weights in {file.name} do not fit the network: {reason}") from error
    left_over = [key for key in result.unexpected_keys if not key.startswith("aux")]
    for problem, keys in (("missing", result.missing_keys), ("left over", left_over)):
        if keys:
            raise BundleError(
                f"the weights in {file.name} do not fit the network: {len(keys)} are {problem}, such as {keys[0]!r}"
            )


def read_state_dict(file: Path) -> dict[str, Any]:
    """Read a state dict without what training scripts and `DataParallel` wrap around values and names."""
    state = _read(file)
    while isinstance(state, Mapping) and (key := next((k for k in ENVELOPES if k in state), None)):
        state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise BundleError(f"{file} holds no state dict")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _read(file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            return import_module("safetensors.torch").load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise BundleError(f"{file.name} needs the package safetensors") from error
    except Exception as error:  # pickle, zip and torch raise errors of every type
        raise BundleError(f"{file} cannot be read as weights: {first_line(error)}") from error
