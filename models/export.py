"""A trained network becomes a bundle: trunk, tails, weights, golden input and manifest in one folder.

In comes a torch module with all that must be said about it; out goes `<out>/<name>/<version>/`, which appears
whole or not at all. How gradients are computed is known to `autodiff`, what a bundle is to `service.manifest`.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as version_of
from os import getpid
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

from models.autodiff import tail
from models.context import UnsupportedOperator
from models.graph import Array, Graph, run
from models.receptive import Field, fields
from models.store import Store
from models.trunk import LOGITS, PIXELS, PREFIX, trace
from service.errors import BundleError
from service.manifest import (
    MANIFEST,
    Activation,
    Colour,
    Golden,
    Layer,
    Manifest,
    Preprocessing,
    Provenance,
    Tail,
    Task,
    digest,
    read,
)

TRUNK = "trunk.onnx"
TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime")


@dataclass(frozen=True)
class Cut:
    """A tapped layer with its tail, or the reason why it has none."""

    layer: str
    graph: ModelProto | None
    crossing: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def file(self) -> str:
        """The name of the tail's file."""
        return f"tail.{self.layer}.onnx"


def export(
    network: nn.Module,
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
) -> Path:
    """Write the bundle of a network and return its folder.

    `layers` are the names of modules whose output is a feature map [N,C,h,w]. A layer behind which an operator has
    no reverse-mode rule gets no tail, and the manifest names the operator. Raises `BundleError` where the bundle
    exists, and `ValueError` where the description does not fit the network; then nothing is left behind.
    """
    target = out / name / str(version)
    if target.exists():
        raise BundleError(f"{target} exists already")
    trunk = trace(network, preprocessing, layers)
    graph = Graph(trunk)
    cuts = [_cut(graph, layer) for layer in layers]
    _tap(trunk, graph, {tensor for cut in cuts for tensor in cut.crossing})
    reach = fields(graph)
    described = [_describe(graph, cut, reach) for cut in cuts]
    with _staging(target) as folder:
        _write(folder, trunk, cuts, golden(preprocessing))
        manifest = Manifest(
            name=name,
            version=version,
            task=task,
            activation=activation,
            labels=tuple(labels),
            palette=tuple(palette),
            background=background,
            logits=tuple(size or 0 for size in graph.shapes[LOGITS][1:]),
            preprocessing=preprocessing,
            trunk=TRUNK,
            layers=tuple(described),
            cam_layer=cam_layer,
            files={file.name: digest(file) for file in sorted(folder.iterdir())},
            provenance=provenance.model_copy(update={"versions": _versions()}),
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")
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


def _cut(graph: Graph, layer: str) -> Cut:
    try:
        return Cut(layer, *tail(graph, layer))
    except UnsupportedOperator as error:
        return Cut(layer, None, reason=str(error))


def _tap(trunk: ModelProto, graph: Graph, tensors: set[str]) -> None:
    """Make tensors outputs of the trunk, in the order in which it computes them."""
    known = {output.name for output in trunk.graph.output}
    for name in (n for n in graph.producer if n in tensors - known):
        sizes = [size or "N" for size in graph.shapes[name]]
        trunk.graph.output.append(helper.make_tensor_value_info(name, graph.types[name], sizes))


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
        tail=Tail(file=cut.file, crossing=cut.crossing) if cut.graph else None,
        unavailable=cut.reason,
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
    """A folder beside the target that takes its place at the end, or vanishes with all that was made for it."""
    made = [p for p in (target.parent, *target.parent.parents) if not p.exists()]
    folder = target.with_name(f".{target.name}.{getpid()}")
    folder.mkdir(parents=True)
    try:
        yield folder
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder)
        for parent in made:
            parent.rmdir()
        raise
