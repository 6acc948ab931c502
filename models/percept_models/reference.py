"""What a bundle is compared with: the network it was made of, made again.

In comes a bundle's folder and a word for the truth, out goes what `verify` takes.
"""

from pathlib import Path

import numpy as np
import onnx
from torch import nn

from percept.bundle.manifest import MANIFEST, Manifest, read
from percept.errors import BundleError
from percept_models.export import precision
from percept_models.export.bundle_writer import weights
from percept_models.export.convert import answer
from percept_models.export.draft import file_answer, is_file
from percept_models.graph.reader import Array
from percept_models.sources import libraries
from percept_models.training.recipes import RECIPES, reference
from percept_models.verify.checks import Truth


def find(bundle: Path, against: str | None, with_weights: str = "default") -> Truth:
    """The truth for a bundle.

    `against` is `nothing`; `torch`, the source that the manifest names with the bundle's own weights; None, which is
    `torch` for a built-in network and else `nothing`; the folder of a float32 bundle; an ONNX file; or a torch source
    with the weights that are said. Raises `BundleError` where it cannot be had.
    """
    if against == "nothing":
        return None
    manifest = read(bundle)
    if against is None and not _built_in(manifest):
        return None
    if against in (None, "torch"):
        return _again(bundle, manifest)
    if (Path(against) / MANIFEST).is_file():
        other = read(Path(against))
        return answer(onnx.load(Path(against) / other.trunk), manifest)
    if is_file(against):
        return file_answer(Path(against), manifest.preprocessing)
    return libraries.load(against, with_weights).network


def photos(bundle: Path, folder: Path) -> Array:
    """The photos in a folder as a bundle's network gets them, uint8 [n,H,W,3]."""
    return np.stack(list(precision.pictures(folder, read(bundle).preprocessing)))


def _again(bundle: Path, manifest: Manifest) -> nn.Module:
    """The torch network of a bundle, built anew and filled with the bundle's own weights."""
    if manifest.precision != "float32":
        raise BundleError(f"its weights are {manifest.precision}, no torch network's: say --against FLOAT32_BUNDLE")
    if _built_in(manifest):
        return reference(bundle)
    source = manifest.provenance.source
    if source.endswith(".onnx"):
        raise BundleError(f"it was made of {source}, not of a torch network: say --against path/to/{source}")
    network = libraries.load(source, "none").network
    own = weights(bundle)
    missing = [name for name in network.state_dict() if name not in own and not _unused(name)]
    if missing:
        raise BundleError(f"it does not hold {missing[0]!r} as torch does: say --against {source} --weights FILE")
    network.load_state_dict(own, strict=False)
    return network


def _built_in(manifest: Manifest) -> bool:
    """Whether a bundle is one of the recipes', with weights that torch can take."""
    recipe = RECIPES.get(manifest.name)
    return recipe is not None and manifest.provenance.source == recipe.source and manifest.precision == "float32"


def _unused(name: str) -> bool:
    """Whether inference does without a parameter."""
    return name.endswith("num_batches_tracked") or name.startswith("aux")
