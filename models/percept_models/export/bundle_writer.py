"""A trunk becomes a bundle: trunk, tails, weights, golden input, first kernels and manifest in one folder.

In come the ONNX model of a trunk and a `BundleDescription`; out comes the folder `<out>/<name>/<version>/`, which
appears complete or not at all.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from onnx import ModelProto
from PIL import Image

from percept.bundle.integrity import digest
from percept.bundle.manifest import (
    MANIFEST,
    Activation,
    FilterPicture,
    Golden,
    Layer,
    Manifest,
    MapLayout,
    OutputHead,
    Precision,
    Provenance,
    TaskName,
)
from percept.bundle.preprocessing import Colour, Preprocessing
from percept_models.autodiff.tail import LOGITS
from percept_models.export.filter_pictures import first_kernels, write_filter_picture
from percept_models.export.layers import describe_layer
from percept_models.export.preconditions import new_bundle_folder, unwritable
from percept_models.export.tails import TappedLayer, build_tails
from percept_models.export.trunk import tap_trunk
from percept_models.export.weights import WeightsFile
from percept_models.graph.execution import run
from percept_models.graph.reader import Array, Graph
from percept_models.graph.receptive_field import receptive_fields
from percept_models.sources.trunk import PIXELS

TRUNK: str = Manifest.model_fields["trunk"].default
# The greatest error of the golden logits on another machine, whose kernels round and sum differently.
TOLERANCES: Mapping[Precision, float] = {"float32": 1e-3, "float16": 3e-2, "int8": 0.1}
TF32_TOLERANCE = TOLERANCES["float16"]  # TF32 has the mantissa of float16
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime")  # whose versions the manifest records


@dataclass(frozen=True)
class BundleDescription:
    """What the manifest of a bundle says that its graphs do not contain.

    `layers` are the names of the tensors to tap, feature maps [N,C,h,w]; `aliases` are other names of them, `layouts`
    how the maps lie in the source network where that is another layout. Only the layers `with_tails` get gradients
    (None: all), because tails hold the float32 weights of the rest of the network. `precision` is that of the trunk;
    `tf32` lets a GPU round float32, also of the tails. `head` says how the logits were made of the network's output.
    """

    name: str
    version: int
    task: TaskName
    labels: Sequence[str]
    activation: Activation
    preprocessing: Preprocessing
    layers: Sequence[str]
    cam_layer: str
    provenance: Provenance
    palette: Sequence[Colour] = ()
    background: int | None = None
    with_tails: Collection[str] | None = None
    precision: Precision = "float32"
    tf32: bool = False
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    layouts: Mapping[str, MapLayout] = field(default_factory=dict)
    head: OutputHead = field(default_factory=OutputHead)


def write_bundle(
    trunk: ModelProto,
    description: BundleDescription,
    out: Path,
    lower: Callable[[ModelProto], ModelProto] | None = None,
    check: Callable[[Path], None] | None = None,
    tails: Sequence[TappedLayer] = (),
) -> Path:
    """Write the bundle of a float32 trunk and return its folder `<out>/<name>/<version>`.

    `lower` converts the trunk to the described precision; the tails stay float32. `check` gets the finished folder
    before it is moved to its place. `tails` are those of the layers, which are built if they are left out. A layer gets
    no tail if an operator after it has no reverse-mode rule; the manifest then names the operator. Raises `BundleError`
    where the bundle exists or `out` is not writable, `ValueError` where the description does not fit the network, and
    what `check` raises; no file remains then.
    """
    target = new_bundle_folder(out, description.name, description.version)
    graph = Graph(trunk)
    tapped_layers = tails or build_tails(graph, description.layers, description.with_tails)
    tapped_trunk = tap_trunk(trunk, graph, tapped_layers)
    fields = receptive_fields(graph)
    layers = [
        describe_layer(
            graph, layer, fields, description.layouts.get(layer.name, "NCHW"), description.aliases.get(layer.name, ())
        )
        for layer in tapped_layers
    ]
    with _staging_folder(target) as folder:
        _write_graphs(folder, lower(tapped_trunk) if lower else tapped_trunk, tapped_layers)
        _write_golden_input(folder, golden_input(description.preprocessing))
        kernels = _write_kernels(folder, graph, description.preprocessing)
        manifest = _build_manifest(description, graph, layers, kernels, folder)
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")
        if check:
            check(folder)
    return target


def golden_input(preprocessing: Preprocessing, seed: int = 0) -> Array:
    """A smooth image of random colours and alpha, uint8 [1,H,W,C]; it belongs to no data set."""
    height, width, channels = preprocessing.shape
    colours = np.random.default_rng(seed).integers(0, 256, (8, 8, channels), np.uint8)
    planes = (
        Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)
        for plane in np.moveaxis(colours, -1, 0)
    )
    return np.stack([np.asarray(plane) for plane in planes], -1)[None]


def _write_graphs(folder: Path, trunk: ModelProto, layers: Sequence[TappedLayer]) -> None:
    with WeightsFile(folder) as weights:
        weights.save(trunk, TRUNK)
        for layer in layers:
            if layer.tail:
                weights.save(layer.tail, layer.tail_file)


def _write_golden_input(folder: Path, pixels: Array) -> None:
    logits = run(folder / TRUNK, {PIXELS: pixels})[LOGITS]
    np.savez_compressed(folder / Golden().file, pixels=pixels, logits=logits)


def _write_kernels(folder: Path, graph: Graph, preprocessing: Preprocessing) -> tuple[FilterPicture, ...]:
    kernels = first_kernels(graph, preprocessing)
    if kernels is None:
        return ()
    return (write_filter_picture(folder, "kernels", kernels, channels=range(len(kernels))),)


def _build_manifest(
    description: BundleDescription,
    graph: Graph,
    layers: Sequence[Layer],
    filters: tuple[FilterPicture, ...],
    folder: Path,
) -> Manifest:
    """The manifest of the files in the folder."""
    tolerance = max(TOLERANCES[description.precision], TF32_TOLERANCE if description.tf32 else 0.0)
    return Manifest(
        name=description.name,
        version=description.version,
        task=description.task,
        activation=description.activation,
        precision=description.precision,
        tf32=description.tf32,
        labels=tuple(description.labels),
        palette=tuple(description.palette),
        background=description.background,
        logits=tuple(size or 0 for size in graph.shapes[LOGITS][1:]),
        head=description.head,
        preprocessing=description.preprocessing,
        trunk=TRUNK,
        layers=tuple(layers),
        cam_layer=description.cam_layer,
        golden=Golden(tolerance=tolerance),
        filters=filters,
        files={file.name: digest(file) for file in sorted(folder.iterdir())},
        provenance=description.provenance.model_copy(update={"versions": _package_versions()}),
    )


def _package_versions() -> dict[str, str]:
    """The versions of the packages that made the bundle; only one of the two ONNX Runtimes is installed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = package_version(package)
        except PackageNotFoundError:
            continue
    return versions


@contextmanager
def _staging_folder(target: Path) -> Iterator[Path]:
    """A folder in a hidden one that is moved to `target` at the end.

    On an error it is removed, with every parent folder that was created for it. Its last two names are those of
    `target`, because reading a manifest compares them with the bundle's name and version.
    """
    root = target.parent.parent
    created = [folder for folder in (target.parent, root, *root.parents) if not folder.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(root) from error
    try:
        with TemporaryDirectory(prefix=".", dir=root) as scratch:
            folder = Path(scratch, *target.parts[-2:])
            folder.mkdir(parents=True)
            yield folder
            target.parent.mkdir(exist_ok=True)
            folder.rename(target)
    except BaseException:
        for parent in created:
            if parent.exists():
                parent.rmdir()
        raise
