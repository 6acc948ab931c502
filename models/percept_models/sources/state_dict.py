"""State dicts in checkpoints, loaded into a network.

Training scripts wrap the weights in a dictionary of other values, and `DataParallel`, `torch.compile` and Lightning put
prefixes before their names; here both are taken off where the network does not have them itself.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from percept.errors import BundleError
from percept_models.sources.checkpoint import SAVE_STATE_DICT, read_checkpoint

# The keys under which training scripts store weights, averaged ones first: their authors evaluate those.
ENVELOPES = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema", "teacher"),
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "params", "weights", "student"),
)
WRAPPERS = ("module", "_orig_mod")  # the names that `DataParallel` and `torch.compile` put before those of any module
PREFIXES = ("model.", "net.", "network.")  # the attribute that holds the network, in Lightning and elsewhere
SIZE_MISMATCH = re.compile(r"size mismatch for (\S+): .*?torch\.Size\((.*?)\).*?torch\.Size\((.*?)\)")


def load_weights(network: nn.Module, file: Path) -> tuple[str, ...]:
    """Load a file into a network, and return in short sentences which of its weights were taken.

    No parameter may be missing; only the heads that training alone needs (`aux...`) may be left over. Raises
    `BundleError` where the weights do not fit or cannot be read.
    """
    expected = network.state_dict().keys()
    found = {path: _unwrap(state, expected) for path, state in _find_state_dicts(read_checkpoint(file))}
    if not found:
        raise BundleError(f"{file.name} holds no state dict: {SAVE_STATE_DICT}")
    path = next((path for path, state in found.items() if expected <= state.keys()), next(iter(found)))
    _load(network, file, found[path])
    others = ", ".join(repr(other) for other in found if other != path)
    return (f"of the weights in {file.name} those under {path!r} were taken, not {others}",) if others else ()


def _find_state_dicts(value: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """All state dicts in a checkpoint, by the keys of their envelopes, those to prefer first."""
    if not isinstance(value, Mapping):
        return
    inner = [
        found for key in ENVELOPES for found in _find_state_dicts(value.get(key), f"{path}.{key}" if path else key)
    ]
    yield from inner
    if not inner and (state := _as_state_dict(value)):
        yield path, state


def _as_state_dict(values: Mapping[Any, Any]) -> dict[str, Tensor] | None:
    """The tensors of a dictionary, if all values with names of parameters are tensors; NumPy's arrays count as such."""
    tensors = {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in values.items()
        if isinstance(value, (Tensor, np.ndarray)) and isinstance(key, str)
    }
    others = [key for key in values if key not in tensors]
    named = [key for key in others if "." in str(key) and not str(key).endswith("_extra_state")]
    return None if named else tensors or None


def _unwrap(state: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """A state dict without the prefixes that the network itself does not have."""
    own = {part for name in expected for part in name.split(".")}
    dropped = {wrapper for wrapper in WRAPPERS if wrapper not in own}
    renamed = {".".join(part for part in key.split(".") if part not in dropped): v for key, v in state.items()}
    while prefix := _removable_prefix(renamed, expected):
        renamed = {key.removeprefix(prefix): v for key, v in renamed.items() if key.startswith(prefix)}
    return renamed


def _removable_prefix(state: Mapping[str, Tensor], expected: Collection[str]) -> str | None:
    """A prefix of names that the network does not have, if it has all the others, as Lightning's metrics are."""
    for prefix in PREFIXES:
        inside = {key for key in state if key.startswith(prefix)}
        if (
            inside
            and not any(name.startswith(prefix) for name in expected)
            and not (state.keys() - inside) & {*expected}
        ):
            return prefix
    return None


def _load(network: nn.Module, file: Path, state: Mapping[str, Tensor]) -> None:
    problem = f"the weights in {file.name} do not fit the network"
    try:
        result = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise BundleError(f"{problem}: {_explain_mismatch(error)}") from error
    missing = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
    left_over = [key for key in result.unexpected_keys if not key.startswith("aux")]
    for kind, keys in (("missing", missing), ("left over", left_over)):
        if keys:
            raise BundleError(f"{problem}: {len(keys)} are {kind}, such as {keys[0]!r}")


def _explain_mismatch(error: RuntimeError) -> str:
    if match := SIZE_MISMATCH.search(str(error)):
        name, stored, expected = match.groups()
        return f"{name!r} has the shape {stored} in the file and {expected} in the network"
    return str(error).strip().splitlines()[-1].strip()
