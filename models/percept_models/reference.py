"""What `percept verify --against` compares a bundle with: the network that it was exported from, or another one.

In come a bundle's folder and the value of the option; out comes the reference that `verify_bundle` takes.
"""

from pathlib import Path

import numpy as np
import onnx
from torch import nn

from percept.bundle.integrity import read_manifest
from percept.bundle.manifest import MANIFEST, Manifest
from percept.errors import BundleError
from percept_models.export.photos import read_photos
from percept_models.export.preconditions import is_onnx_file
from percept_models.export.weights import read_parameters
from percept_models.graph.reader import Array
from percept_models.sources.libraries import load_source
from percept_models.training.bundles import reference_network
from percept_models.training.recipes import RECIPES
from percept_models.verify.onnx_reference import Reference, onnx_file_reference, trunk_reference


def find_reference(bundle: Path, against: str | None, weights: str = "default") -> Reference:
    """The reference for a bundle.

    `against` is `nothing`; `torch`, the source in the manifest with the bundle's own weights; None, which is `torch`
    for a built-in network and `nothing` for others; the folder of a float32 bundle; an ONNX file; or a torch source,
    which gets `weights`. Raises `BundleError` where the reference cannot be made.
    """
    if against == "nothing":
        return None
    manifest = read_manifest(bundle)
    if against is None and not _is_built_in(manifest):
        return None
    if against in (None, "torch"):
        return _rebuild_network(bundle, manifest)
    if (Path(against) / MANIFEST).is_file():
        other = read_manifest(Path(against))
        return trunk_reference(onnx.load(Path(against) / other.trunk), manifest)
    if is_onnx_file(against):
        return onnx_file_reference(Path(against), manifest)
    return load_source(against, weights).network


def bundle_photos(bundle: Path, folder: Path) -> Array:
    """The photos in a folder as pixels of a bundle's trunk, uint8 [n,H,W,C]."""
    return np.stack(list(read_photos(folder, read_manifest(bundle).preprocessing)))


def _rebuild_network(bundle: Path, manifest: Manifest) -> nn.Module:
    """The torch network of a bundle, made by its source, with the bundle's own weights."""
    if manifest.precision != "float32":
        raise BundleError(
            f"the bundle's weights are {manifest.precision}, which no torch network has: use --against FLOAT32_BUNDLE"
        )
    if _is_built_in(manifest):
        return reference_network(bundle)
    source = manifest.provenance.source
    if source.endswith(".onnx"):
        raise BundleError(
            f"the bundle was exported from {source}, not from a torch network: use --against path/to/{source}"
        )
    network = load_source(source, "none").network
    parameters = read_parameters(bundle)
    missing = [name for name in network.state_dict() if name not in parameters and not _is_unused(name)]
    if missing:
        raise BundleError(
            f"the bundle has no parameter {missing[0]!r}, which torch needs: use --against {source} --weights FILE"
        )
    network.load_state_dict(parameters, strict=False)
    return network


def _is_built_in(manifest: Manifest) -> bool:
    """Whether a bundle was made by one of the recipes and has weights that torch can load."""
    recipe = RECIPES.get(manifest.name)
    return (
        recipe is not None
        and manifest.provenance.source == recipe.description.provenance.source
        and manifest.precision == "float32"
    )


def _is_unused(parameter: str) -> bool:
    """Whether inference does not need a parameter."""
    return parameter.endswith("num_batches_tracked") or parameter.startswith("aux")
