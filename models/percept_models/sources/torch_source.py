"""A torch network with what its makers state about it, and the request that it is loaded for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from percept.bundle.preprocessing import Preprocessing


@dataclass(frozen=True)
class SourceRequest:
    """A source, parsed: the name and arguments of a network, and which weights it gets."""

    name: str
    arguments: Mapping[str, Any]
    weights: str

    @property
    def pretrained(self) -> bool:
        """Whether the network gets the makers' own weights."""
        return self.weights == "default"


@dataclass(frozen=True)
class TorchSource:
    """A torch network with what its makers state about it; `labels` are empty where they state none.

    `crop_pct` is timm's: the length of an input of any size as a share of the resized photo's. `notes` say in short
    sentences what was changed.
    """

    network: nn.Module
    preprocessing: Preprocessing
    weights: str
    labels: tuple[str, ...] = ()
    license: str = "not stated"
    notes: tuple[str, ...] = ()
    crop_pct: float | None = None
