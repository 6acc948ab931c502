"""A trunk becomes a bundle: trunk, tails, weights, golden input, first kernels and manifest in one folder.

Input: the ONNX model of a trunk and its description. Output: the folder `<out>/<name>/<version>/`, which appears
whole or not at all.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnx import ModelProto, helper, numpy_helper
from PIL import Image
from torch import Tensor

from percept.bundle.manifest import (
    IMAGE,
    MANIFEST,
    Activation,
    Colour,
    Golden,
    Layer,
    Manifest,
    Precision,
    Preprocessing,
    Provenance,
    Tail,
    Task,
    digest,
    read,
)
from percept.errors import BundleError
from percept_models.autodiff.reverse import between, needed, tail
from percept_models.export.kernels import draw, kernels
from percept_models.export.weights import Store
from percept_models.graph.errors import UnsupportedOperator
from percept_models.graph.reader import Array, Graph, run
from percept_models.graph.receptive_field import Field, fields
from percept_models.sources.trunk import LOGITS, PIXELS, PREFIX

TRUNK = "trunk.onnx"
# How far from the golden logits another machine may be: its kernels round, sum and saturate otherwise.
TOLERANCES: Mapping[Precision, float] = {"float32": 1e-3, "float16": 3e-2, "int8": 0.1}
TF32_TOLERANCE = TOLERANCES["float16"]  # it has the mantissa of float16
TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime")


@dataclass(frozen=True)
class Cut:
    """A tapped layer with its tail, or the reason why it has none."""

    layer: str
    graph: ModelProto | None
    crossing: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()
    reason: str = "its tail was left out to keep the bundle small"

    @property
    def file(self) -> str:
        """The name of the tail's file."""
        return f"tail.{self.layer}.onnx"


def export(
    trunk: ModelProto,
    *,
    name: str,
    version: int,
    task: Task,
    labels: Sequence[str],
    activation: Activation,
    preprocessing: Preprocessing,
    layers: Sequence[str],
    cam_layer: str,
    provenance: Provenance,
    out: Path,
    palette: Sequence[Colour] = (),
    background: int | None = None,
    gradients: Collection[str] | None = None,
    precision: Precision = "float32",
    tf32: bool = False,
    lower: Callable[[ModelProto], ModelProto] | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Write the bundle of a trunk and return its folder.

    `layers` are names of tensors that are feature maps [N,C,h,w]; no other tensor is tapped. A layer behind which an
    operator has no reverse-mode rule gets no tail, and the manifest names the operator; nor does one that `gradients`,
    if given, leaves out: tails hold the float32 weights of all that follows. `lower` makes a trunk of
    another `precision`; the tails stay float32. `tf32` lets a GPU round float32, that of the tails too. `check` gets
    the finished folder before it takes its place. Raises `BundleError` where the bundle exists, `ValueError` where the
    description does not fit the network, and what `check` raises; then nothing is left behind.
    """
    target = out / name / str(version)
    if target.exists():
        raise BundleError(f"{target} exists already")
    graph = Graph(trunk)
    cuts = [
        _cut(graph, layer, layers) if gradients is None or layer in gradients else Cut(layer, None) for layer in layers
    ]
    tapped = _tapped(trunk, graph, [*layers, *(tensor for cut in cuts for tensor in cut.crossing)])
    reach = fields(graph)
    described = [_describe(graph, cut, reach) for cut in cuts]
    with _staging(target) as folder:
        _write(folder, lower(tapped) if lower else tapped, cuts, golden(preprocessing))
        first = kernels(graph, preprocessing)
        drawn = () if first is None else (draw(folder, "kernels", first, channels=range(len(first))),)
        manifest = Manifest(
            name=name,
            version=version,
            task=task,
            activation=activation,
            precision=precision,
            tf32=tf32,
            labels=tuple(labels),
            palette=tuple(palette),
            background=background,
            logits=tuple(size or 0 for size in graph.shapes[LOGITS][1:]),
            preprocessing=preprocessing,
            trunk=TRUNK,
            layers=tuple(described),
            cam_layer=cam_layer,
            golden=Golden(tolerance=max(TOLERANCES[precision], TF32_TOLERANCE if tf32 else 0.0)),
            filters=drawn,
            files={file.name: digest(file) for file in sorted(folder.iterdir())},
            provenance=provenance.model_copy(update={"versions": _versions()}),
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")
        if check:
            check(folder)
    return target


def weights(bundle: Path) -> dict[str, Tensor]:
    """The parameters of the network in a bundle, by the names that they have in torch."""
    trunk = onnx.load(bundle / read(bundle).trunk)
    return {
        tensor.name.removeprefix(PREFIX): torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in trunk.graph.initializer
        if tensor.name.startswith(PREFIX)
    }


def golden(how: Preprocessing, seed: int = 0) -> Array:
    """A smooth coloured picture uint8 [1,H,W,3] that belongs to no data set."""
    blots = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    size = (how.width, how.height)
    return np.asarray(Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC))[None]


def _cut(graph: Graph, layer: str, layers: Sequence[str]) -> Cut:
    """The tail of a layer; in that of the image every other layer can be asked about too."""
    passed = {name for node in between(graph, layer, LOGITS) for name in node.output} if layer == IMAGE else {}
    seeds = tuple(name for name in layers if name in passed)
    try:
        return Cut(layer, *tail(graph, layer, seeds=seeds), seeds)
    except UnsupportedOperator as error:
        return Cut(layer, None, reason=str(error))


def _tapped(trunk: ModelProto, graph: Graph, tensors: Sequence[str]) -> ModelProto:
    """A copy of the trunk whose outputs are the logits and these tensors, in the order of computation."""
    copy = ModelProto()
    copy.CopyFrom(trunk)
    del copy.graph.node[:], copy.graph.output[:]
    copy.graph.node.extend(needed(graph.nodes, {LOGITS, *tensors}))
    for name in [LOGITS, *(n for n in graph.producer if n in set(tensors) - {LOGITS})]:
        sizes = [size or "N" for size in graph.shapes[name]]
        copy.graph.output.append(helper.make_tensor_value_info(name, graph.types[name], sizes))
    return copy


def _describe(graph: Graph, cut: Cut, reach: dict[str, Field]) -> Layer:
    """The manifest's entry for a layer."""
    channels, height, width = (size or 0 for size in graph.shapes[cut.layer][1:])
    field = reach.get(cut.layer, Field())
    return Layer(
        name=cut.layer,
        shape=(channels, height, width),
        stride=field.stride,
        dilation=field.dilation,
        receptive_field=field.receptive if cut.layer in reach else None,
        tail=Tail(file=cut.file, crossing=cut.crossing, seeds=cut.seeds) if cut.graph else None,
        unavailable=None if cut.graph else cut.reason,
    )


def _write(folder: Path, trunk: ModelProto, cuts: Sequence[Cut], pixels: Array) -> None:
    """All files of the bundle but its manifest."""
    with Store(folder) as store:
        store.save(trunk, TRUNK)
        for cut in cuts:
            if cut.graph:
                store.save(cut.graph, cut.file)
    logits = run(folder / TRUNK, {PIXELS: pixels})[LOGITS]
    np.savez_compressed(folder / Golden().file, pixels=pixels, logits=logits)


def _versions() -> dict[str, str]:
    """The versions of the tools that made a bundle."""
    found = {}
    for tool in TOOLS:
        try:
            found[tool] = version_of(tool)
        except ImportError:  # PackageNotFoundError: one of the two runtimes is not installed
            continue
    return found


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A folder of the same two names in a hidden one that takes its place at the end, or vanishes.

    With it vanishes all that was made for it.
    """
    root = target.parent.parent
    made = [p for p in (target.parent, root, *root.parents) if not p.exists()]
    root.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(prefix=".", dir=root) as scratch:
            folder = Path(scratch, *target.parts[-2:])
            folder.mkdir(parents=True)
            yield folder
            target.parent.mkdir(exist_ok=True)
            folder.rename(target)
    except BaseException:
        for parent in made:
            if parent.exists():
                parent.rmdir()
        raise
