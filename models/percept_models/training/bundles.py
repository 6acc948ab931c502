"""From a recipe to its built-in bundle, and from the bundle back to its torch network.

`train_bundle` trains the recipe's network, or takes trained weights, verifies a bundle of it in a temporary folder and
measures that on the test split with ONNX Runtime, as it will be served. Only then is the bundle itself written.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from percept.bundle.integrity import read_manifest
from percept.errors import BundleError
from percept.runtime.session import Session
from percept_models.autodiff.tail import LOGITS
from percept_models.export.bundle_writer import write_bundle
from percept_models.export.preconditions import new_bundle_folder
from percept_models.export.weights import read_parameters
from percept_models.sources.trunk import PIXELS, trace
from percept_models.training.blocks import fold_batch_norms
from percept_models.training.loop import Predict
from percept_models.training.recipe import Recipe
from percept_models.training.recipes import RECIPES
from percept_models.verify.bundle import verify_bundle
from percept_models.verify.table import format_checks
from percept_models.visualize.command import visualize


def train_bundle(name: str, data: Path, out: Path, epochs: int | None = None, trained: Path | None = None) -> Path:
    """Train, verify, measure and write the bundle `<out>/<name>/1` of a recipe, and return its folder.

    `trained` is a file with the state dict of the recipe's network; nothing is trained then. Raises `BundleError` where
    the bundle exists, `out` is not writable, or the bundle does not compute what torch computes.
    """
    recipe = RECIPES[name]
    new_bundle_folder(out, name, recipe.description.version)
    network = recipe.train(data, epochs) if trained is None else _load_network(recipe, trained)
    network = fold_batch_norms(network.cpu().eval())
    metrics = _measure_verified(name, network, data)
    for metric, value in metrics.items():
        print(f"{metric} {value:.4f}", flush=True)
    folder = export_network(name, network, metrics, out)
    visualize(folder)
    return folder


def export_network(name: str, network: nn.Module, metrics: Mapping[str, float], out: Path) -> Path:
    """Write a recipe's network, with folded batch norms and in `eval` mode, as `<out>/<name>/1`."""
    description = RECIPES[name].description
    rounded = {metric: round(value, 4) for metric, value in metrics.items()}
    provenance = description.provenance.model_copy(update={"metrics": rounded})
    trunk = trace(network, description.preprocessing, description.layers)
    return write_bundle(trunk, replace(description, provenance=provenance), out)


def reference_network(folder: Path) -> nn.Module:
    """The torch network of a built-in bundle with the bundle's own weights, in `eval` mode.

    Raises `KeyError` where no recipe has the bundle's name.
    """
    network = fold_batch_norms(RECIPES[read_manifest(folder).name].network().eval())
    network.load_state_dict(read_parameters(folder))
    return network


def trunk_predictor(trunk: Path | bytes) -> Predict:
    """A trunk, as a file or its bytes, in ONNX Runtime as a function pixels uint8 [n,3,H,W] → float32 logits."""
    session = Session(trunk)

    def predict(pixels: Tensor) -> Tensor:
        rows = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        return torch.from_numpy(session.run({PIXELS: rows}, [LOGITS])[LOGITS])

    return predict


def _load_network(recipe: Recipe, weights: Path) -> nn.Module:
    network = recipe.network()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network


def _measure_verified(name: str, network: nn.Module, data: Path) -> dict[str, float]:
    """The metrics of a network's bundle, which is verified first and deleted at the end."""
    with TemporaryDirectory() as scratch:
        folder = export_network(name, network, {}, Path(scratch))
        checks = verify_bundle(folder, network)
        print(format_checks(checks), flush=True)
        if not all(check.passed for check in checks):
            raise BundleError(f"{name} does not compute what its torch network computes")
        return RECIPES[name].measure(trunk_predictor(folder / read_manifest(folder).trunk), data)
