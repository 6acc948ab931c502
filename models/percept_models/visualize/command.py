"""Pictures of what a bundle's layers look for and keep: what `percept visualize` does.

In comes the folder of a bundle; into it go the kernels of the first convolution, for each tapped layer the images that
excite some of its channels most, and what the layer keeps of a photo. New files first, then the manifest in one step:
at any moment the bundle is whole. Its graphs and weights are left alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx
from onnx import ModelProto
from PIL import Image

from percept.bundle.manifest import IMAGE, MANIFEST, Drawing, Layer, Manifest, digest, read
from percept.errors import BundleError, PerceptError
from percept.imaging.decode import decode_for, prepare
from percept_models.export.draft import Say
from percept_models.export.kernels import KINDS, draw, kernels
from percept_models.graph.errors import UnsupportedOperator
from percept_models.graph.reader import Array, Graph
from percept_models.visualize.ascent import Response, invert, maximise, noise

CHANNELS, STEPS = 9, 256
LARGE, SMALL, GRID = 128, 64, 32  # the longer side of a maximum in pixels, and what the shorter is a multiple of
KEPT = 160  # the longer side of an inversion in the bundle
ALIVE = 1e-3  # of the liveliest channel's deviation over noise: below it a channel is taken for dead
MOST_BYTES, MOST_PIXELS = 2**28, 2**28  # of a photo


@dataclass(frozen=True)
class Plan:
    """What is drawn: of which layers (empty: all), how many channels, in how many steps, and the photo that is inverted
    (None: the golden picture).
    """

    layers: tuple[str, ...] = ()
    channels: int = CHANNELS
    steps: int = STEPS
    photo: Path | None = None


def visualize(folder: Path, plan: Plan = Plan(), say: Say = print) -> None:
    """Draw the filters of a bundle into it; older drawings are gone afterwards, and what a killed run has left.

    Raises `BundleError` with the reason where it is not in float32, does not tap the image, or has no such layer, and
    what `decode` raises for the photo; then the bundle is as it was.
    """
    manifest = read(folder)
    layers = _layers(manifest, plan)
    pixels = _photo(folder, manifest, plan, say)
    trunk = onnx.load(folder / manifest.trunk)
    known = {file.name for file in folder.iterdir()}
    try:
        drawings = list(_drawings(folder, trunk, manifest, layers, plan, pixels, say))
        _publish(folder, manifest, drawings)
    except BaseException:
        for file in folder.iterdir():
            if file.name not in known:
                file.unlink()
        raise
    for file in folder.glob("*.*.png"):
        if file.name.split(".")[0] in KINDS and file.name not in {one.file for one in drawings}:
            file.unlink()


def choice(response: Response, count: int) -> list[int]:
    """So many of a layer's channels, evenly spread over those that noise moves at all."""
    spread = response.means(noise(response.size)).std(0)
    alive = np.flatnonzero(spread > ALIVE * spread.max())
    if len(alive) == 0:
        return []
    places = np.linspace(0, len(alive) - 1, min(count, len(alive))).round().astype(int)
    return [int(k) for k in alive[places]]


def canvas_size(layer: Layer, whole: tuple[int, int]) -> tuple[int, int]:
    """The size (H, W) at which a layer's channels are shown: of the network's shape, as large as two receptive fields.

    The longer side is at least `SMALL`, at most `LARGE` pixels, and no longer than the network's.
    """
    reach = 2 * max(layer.receptive_field.size) if layer.receptive_field else LARGE
    longest = min(max(reach, SMALL), LARGE)
    if max(whole) <= longest:
        return whole
    height, width = (min(-(-side * longest // (max(whole) * GRID)) * GRID, side) for side in whole)
    return height, width


def _layers(manifest: Manifest, plan: Plan) -> list[Layer]:
    if manifest.precision != "float32":
        raise BundleError(f"its trunk is in {manifest.precision}, which has no gradients: visualize the float32 bundle")
    if manifest.layer(IMAGE) is None:
        raise BundleError(f"it has no layer {IMAGE!r}: export it again")
    found = {layer.name: layer for layer in manifest.layers if layer.name != IMAGE}
    if unknown := [name for name in plan.layers if name not in found]:
        raise BundleError(f"there is no layer {unknown[0]!r} to visualize; there are {', '.join(found)}")
    return [layer for name, layer in found.items() if not plan.layers or name in plan.layers]


def _photo(folder: Path, manifest: Manifest, plan: Plan, say: Say) -> Array:
    """What the network gets of the photo, uint8 [H,W,3]."""
    if plan.photo is None:
        say("photo          the golden picture  (--photo FILE for one that shows something)")
        with np.load(folder / manifest.golden.file) as golden:
            return np.asarray(golden["pixels"][0])
    rule = manifest.preprocessing
    return prepare(*decode_for(rule, plan.photo.read_bytes(), MOST_BYTES, MOST_PIXELS), rule)


def _drawings(
    folder: Path,
    trunk: ModelProto,
    manifest: Manifest,
    layers: Sequence[Layer],
    plan: Plan,
    photo: Array,
    say: Say,
) -> Iterator[Drawing]:
    """Kernels, maxima and inversions, each written when it is made."""
    how = manifest.preprocessing
    first = kernels(Graph(trunk), how)
    if first is not None:
        say(f"kernels        {len(first)} of {first.shape[1]} x {first.shape[2]}")
        yield draw(folder, "kernels", first, channels=range(len(first)))
    yield draw(folder, "inversion", _fitted(photo[None], KEPT), IMAGE, scores=(0.0,))
    for layer in layers:
        try:
            whole = Response(trunk, layer, how, (how.height, how.width))
        except (UnsupportedOperator, ValueError) as error:
            say(f"left out       {layer.name}: {error}")
            continue
        yield from _maxima(folder, _smaller(trunk, layer, whole), plan, say)
        start = perf_counter()
        found, off = invert(whole, photo, plan.steps)
        yield draw(folder, "inversion", _fitted(found[None], KEPT), layer.name, scores=(_short(off),))
        say(f"inversion      {layer.name}: relative error {off:.2g}  ({perf_counter() - start:.0f} s)")


def _maxima(folder: Path, response: Response, plan: Plan, say: Say) -> Iterator[Drawing]:
    start, channels = perf_counter(), choice(response, plan.channels)
    if not channels:
        say(f"left out       {response.layer}: no channel varies")
        return
    found = maximise(response, channels, plan.steps)
    A = response.activations(found).mean((2, 3))
    scores = [_short(A[i, k]) for i, k in enumerate(channels)]
    best = response.activations(noise(response.size)).mean((2, 3)).max(0)
    tiles = _fitted(found, LARGE)
    yield draw(
        folder, "maxima", tiles, response.layer, channels, scores=scores, noise=[_short(best[k]) for k in channels]
    )
    height, width = response.size
    say(
        f"maxima         {response.layer}: {len(channels)} channels at {height} x {width}, mean activation "
        f"{np.median(scores):.2g}, of noise {np.median(best[channels]):.2g}  ({perf_counter() - start:.0f} s)"
    )


def _smaller(trunk: ModelProto, layer: Layer, whole: Response) -> Response:
    """The layer for smaller pictures, where the network takes them and its cells stay as far apart."""
    size = canvas_size(layer, whole.size)
    if size == whole.size:
        return whole
    try:
        found = Response(trunk, layer, whole.how, size)
        shape = found.activations(np.zeros((1, *size, 3), np.uint8)).shape[2:]
    except (PerceptError, ValueError):
        return whole
    cells = [round(side / stride) for side, stride in zip(size, layer.stride, strict=True)]
    return found if all(abs(a - b) <= 1 for a, b in zip(shape, cells, strict=True)) else whole


def _publish(folder: Path, manifest: Manifest, drawings: Sequence[Drawing]) -> None:
    """Name the drawings in the manifest instead of those that it names."""
    old = {one.file for one in manifest.filters}
    files = {name: sha for name, sha in manifest.files.items() if name not in old}
    files |= {one.file: digest(folder / one.file) for one in drawings}
    said = manifest.model_dump() | {"filters": tuple(drawings), "files": dict(sorted(files.items()))}
    staged = folder / f".{MANIFEST}"
    staged.write_text(Manifest.model_validate(said).model_dump_json(indent=2) + "\n", "utf-8")
    staged.replace(folder / MANIFEST)


def _fitted(pictures: Array, side: int) -> Array:
    """Pictures uint8 [n,H,W,3] whose longer side is at most `side` pixels."""
    height, width = pictures.shape[1:3]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.LANCZOS)) for one in pictures])


def _short(value: float) -> float:
    """Four digits: what a picture of 8 bits is worth."""
    return float(f"{value:.4g}")
