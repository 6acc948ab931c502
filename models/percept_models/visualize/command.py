"""`percept visualize`: draw the filter pictures of a bundle, and replace those in its manifest.

In comes the folder of a bundle. New files are written first, then the manifest in one step, so that the bundle is
complete at every moment; graphs and weights are not changed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from percept.bundle.integrity import digest, read_manifest
from percept.bundle.manifest import IMAGE, MANIFEST, FilterPicture, Layer, Manifest
from percept.errors import BundleError
from percept_models.export.filter_pictures import KINDS
from percept_models.export.photos import read_photo
from percept_models.export.report import Report, format_line
from percept_models.graph.reader import Array
from percept_models.visualize.options import VisualizeOptions
from percept_models.visualize.pictures import draw_pictures

DEFAULT_OPTIONS = VisualizeOptions()


def visualize(folder: Path, options: VisualizeOptions = DEFAULT_OPTIONS, report: Report = print) -> None:
    """Draw the filter pictures of a bundle into it; older pictures, and files of an aborted run, are removed.

    Raises `BundleError` with the reason where the bundle is not in float32, does not tap the image, or lacks a layer of
    the options, and what `decode` raises for the photo; the bundle is unchanged then.
    """
    manifest = read_manifest(folder)
    layers = _select_layers(manifest, options)
    photo = _read_photo(folder, manifest, options, report)
    trunk = onnx.load(folder / manifest.trunk)
    existing = {file.name for file in folder.iterdir()}
    try:
        pictures = list(draw_pictures(folder, trunk, manifest.preprocessing, layers, photo, options, report))
        _replace_manifest(folder, manifest, pictures)
    except BaseException:
        for file in folder.iterdir():
            if file.name not in existing:
                file.unlink()
        raise
    _remove_old_pictures(folder, pictures)


def _select_layers(manifest: Manifest, options: VisualizeOptions) -> list[Layer]:
    if manifest.precision != "float32":
        raise BundleError(
            f"the bundle's trunk is in {manifest.precision}, which has no gradients: visualize the float32 bundle"
        )
    if manifest.layer(IMAGE) is None:
        raise BundleError(f"the bundle has no layer {IMAGE!r}: export it again")
    layers = [layer for layer in manifest.layers if layer.name != IMAGE]
    named = [manifest.layer(name) for name in options.layers]
    if unknown := [name for name, layer in zip(options.layers, named, strict=True) if layer not in layers]:
        known = ", ".join(layer.name for layer in layers)
        raise BundleError(f"there is no layer {unknown[0]!r} to visualize; there are {known}")
    return [layer for layer in layers if not named or layer in named]


def _read_photo(folder: Path, manifest: Manifest, options: VisualizeOptions, report: Report) -> Array:
    """The trunk's pixels uint8 [H,W,C] of the photo, or of the golden input."""
    if options.photo is not None:
        return read_photo(options.photo, manifest.preprocessing)
    report(format_line("photo", "the golden input  (--photo FILE shows what layers keep of a real photo)"))
    with np.load(folder / manifest.golden.file) as golden:
        return np.asarray(golden["pixels"][0])


def _replace_manifest(folder: Path, manifest: Manifest, pictures: Sequence[FilterPicture]) -> None:
    """Name the new pictures in the manifest in the place of the old ones."""
    old = {picture.file for picture in manifest.filters}
    files = {name: sha for name, sha in manifest.files.items() if name not in old}
    files |= {picture.file: digest(folder / picture.file) for picture in pictures}
    fields = manifest.model_dump() | {"filters": tuple(pictures), "files": dict(sorted(files.items()))}
    staged = folder / f".{MANIFEST}"
    staged.write_text(Manifest.model_validate(fields).model_dump_json(indent=2) + "\n", "utf-8")
    staged.replace(folder / MANIFEST)


def _remove_old_pictures(folder: Path, pictures: Sequence[FilterPicture]) -> None:
    current = {picture.file for picture in pictures}
    for file in folder.glob("*.*.png"):
        if file.name.split(".")[0] in KINDS and file.name not in current:
            file.unlink()
