"""What a recipe is: how a built-in network is trained, measured and described."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from percept.bundle.manifest import Provenance
from percept_models.export.bundle_writer import BundleDescription
from percept_models.training.loop import Predict


@dataclass(frozen=True)
class Recipe:
    """A built-in network.

    `train` takes the folder of the data set and a number of epochs, None for the recipe's own. `measure` takes a
    function pixels uint8 [n,3,H,W] → logits and the folder, and returns the metrics on the test split by name.
    `description` is that of the bundle, still without metrics.
    """

    network: Callable[[], nn.Module]
    train: Callable[[Path, int | None], nn.Module]
    measure: Callable[[Predict, Path], dict[str, float]]
    description: BundleDescription


def recipe_provenance(name: str, data: str) -> Provenance:
    """The provenance of a recipe's bundle; `data` names the data set and its license."""
    return Provenance(
        source=f"models/recipes/{name}.py",
        weights="trained from scratch by this recipe",
        license="Apache-2.0",
        data=data,
    )
