"""One loaded bundle: the trunk, the tails, and the proof that they are what the manifest says.

Everything here blocks and may be called from several threads. A tail is loaded when it is first asked for, but the
one of the CAM layer at once.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from percept.bundle.integrity import check_files, read_manifest
from percept.bundle.manifest import WEIGHTS, Layer, Manifest, Tail, seed_name
from percept.errors import BundleError, GradientsUnavailable, InferenceError
from percept.runtime import batch_sizes
from percept.runtime.providers import DEFAULT_GPU_OPTIONS, Device, GpuOptions, options_for_trunk
from percept.runtime.session import Arrays, Session
from percept.runtime.signature import check_tail, check_trunk
from percept.telemetry.context import stage

# A network is loaded for passes that are alone, on all cores, and again for passes on one core each: to share cores in
# the middle of a pass costs 7 or 8 % of them under load. One with more weights than this makes do with the first.
SMALL_BYTES = 2**27
NO_SEED = np.zeros((1, 1, 1, 1), np.float32)  # broadcasts to any layer


@dataclass(frozen=True, eq=False)
class TrunkInput:
    """One prepared image, uint8 [H,W,3] RGB, and which trunk outputs are wanted of it."""

    pixels: NDArray[np.uint8]
    outputs: frozenset[str]


class Network:
    """A bundle that kept the contract when it was loaded."""

    def __init__(
        self,
        folder: Path,
        device: Device,
        threads: int,
        sizes: Sequence[int] = (),
        tuning: GpuOptions = DEFAULT_GPU_OPTIONS,
    ) -> None:
        """Load and check the bundle in `folder`; raises `BundleError` with the reason for a refusal.

        `sizes` are the buckets of batches, each run once before it counts as loaded; `tuning` is completed by what
        the manifest says.
        """
        self.manifest: Manifest = read_manifest(folder)
        self._folder, self._device, self._threads, self._sizes = folder, device, threads, tuple(sizes)
        self._tuning = replace(tuning, tf32=self.manifest.tf32)
        rule, half = self.manifest.preprocessing, self.manifest.precision == "float16"
        own = options_for_trunk(self._tuning, half, (rule.height, rule.width, 3), self._sizes, self.manifest.files)
        self._doubled = device == "cpu" and threads > 1 and _weight(folder) <= SMALL_BYTES
        self._trunk = Session(folder / self.manifest.trunk, device, threads, alone=self._doubled, tuning=own)
        self._narrow = self._trunk
        check_trunk(self._trunk, self.manifest)
        self._check_golden()
        self._tails: dict[str, Session] = {}
        self._slopes: dict[str, tuple[bool, bool]] = {}
        self._loading = threading.Lock()
        cam_layer = self.manifest.layer(self.manifest.cam_layer)
        if cam_layer is not None and cam_layer.tail is not None:
            try:
                self._tail(cam_layer, checked=True)
            except InferenceError as error:
                raise BundleError(f"the tail of {cam_layer.name!r} cannot be run: {error}") from error

    def load_parallel_trunk(self) -> None:
        """Load a small network once more, for passes that are not alone; until then they share what there is."""
        if self._doubled and self._narrow is self._trunk:
            self._narrow = Session(self._folder / self.manifest.trunk)

    def outputs_for_gradients(self, layer: Layer) -> frozenset[str]:
        """The trunk outputs that gradients at `layer` need."""
        crossing = layer.tail.crossing if layer.tail else ()
        return frozenset({"logits", layer.name, *crossing})

    def run_trunk(self, looks: Sequence[TrunkInput], alone: bool = True) -> list[Arrays]:
        """One trunk pass over a batch; each image's own outputs, without the batch dimension.

        `alone` says that no other thread is busy: the pass may have their cores.
        """
        outputs = sorted(frozenset().union(*(look.outputs for look in looks)))
        trunk = self._trunk if alone else self._narrow
        batch = batch_sizes.run_batches(trunk.run, {"pixels": [look.pixels for look in looks]}, outputs, self._sizes)
        return [{name: batch[name][row] for name in look.outputs} for row, look in enumerate(looks)]

    def run_tail(
        self,
        layer: Layer,
        row: Arrays,
        activations: NDArray[np.float32],
        seeds: NDArray[np.float32],
        outputs: Sequence[str] = ("logits", "gradients"),
        inner: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
    ) -> Arrays:
        """The rest of the network after `layer`, on n activations [n,C,h,w] of one image, with a seed [n,...] for each.

        Gives `logits` [n,...] and `gradients` d(sum of seed * logits)/dA [n,C,h,w], or only those that are named. What
        bypasses the layer comes from `row`, the trunk outputs of the image. `inner` are seeds of layers on the way, of
        those that the tail has seeds for. Raises `GradientsUnavailable` where the layer has no tail.
        """
        if layer.tail is None:
            raise GradientsUnavailable(f"layer {layer.name!r} has no gradients: {layer.unavailable}")
        feeds = _feeds(layer.tail, row, activations, seeds, inner)
        with stage("tail"):
            return batch_sizes.run_batches(self._tail(layer).run, feeds, outputs, self._sizes)

    def compute_gradients(self, layer: Layer, row: Arrays, seed: NDArray[np.float32]) -> NDArray[np.float32]:
        """d(sum of seed * logits)/dA at `layer`, float32 [C,h,w], for the trunk outputs of one image."""
        found = self.run_tail(layer, row, row[layer.name][None], seed[None], ["gradients"])
        return np.asarray(found["gradients"][0])

    def is_linear(self, layer: Layer) -> bool:
        """Whether the logits are linear in the layer and a constant: the gradient is the same whatever is seen."""
        return self._slope(layer)[0]

    def has_uniform_gradients(self, layer: Layer) -> bool:
        """Whether, besides, the gradient is the same in every cell: average pooling and one linear layer follow."""
        return all(self._slope(layer))

    def _slope(self, layer: Layer) -> tuple[bool, bool]:
        """Whether the gradient is the same at two random activations, and in all cells of each, for a random seed."""
        if layer.tail is None or layer.tail.crossing:
            return False, False
        if layer.name not in self._slopes:
            rng = np.random.default_rng(0)
            A = rng.standard_normal((2, *layer.shape)).astype(np.float32)
            seed = rng.standard_normal((1, *self.manifest.logits)).astype(np.float32)
            g = self.run_tail(layer, {}, A, np.repeat(seed, 2, axis=0), ["gradients"])["gradients"]
            limit = 1e-4 * np.abs(g).max()
            same = np.abs(g[0] - g[1]).max() <= limit
            even = np.abs(g - g.mean((2, 3), keepdims=True)).max() <= limit
            self._slopes[layer.name] = bool(same), bool(even)
        return self._slopes[layer.name]

    def _tail(self, layer: Layer, checked: bool = False) -> Session:
        assert layer.tail is not None
        with self._loading:
            if layer.name not in self._tails:
                if not checked:  # hours after the trunk: the files may be others by now
                    check_files(self._folder, self.manifest, {layer.tail.file, WEIGHTS} & self.manifest.files.keys())
                # TensorRT knows few of the operators of a gradient, and rounds float32 to TF32 unasked.
                device: Device = "cuda" if self._device == "tensorrt" else self._device
                session = Session(self._folder / layer.tail.file, device, self._threads, tuning=self._tuning)
                check_tail(session, layer)
                self._warm(session, layer)
                self._tails[layer.name] = session
            return self._tails[layer.name]

    def _warm(self, tail: Session, layer: Layer) -> None:
        """Run a tail once in every bucket: what a first run has to plan, load and allocate is done then."""
        assert layer.tail is not None
        if not self._sizes:
            return
        how = self.manifest.preprocessing
        row = self.run_trunk(
            [TrunkInput(np.zeros((how.height, how.width, 3), np.uint8), self.outputs_for_gradients(layer))]
        )[0]
        for size in reversed(self._sizes):  # what the greatest allocates, the others find free
            activations = np.repeat(row[layer.name][None], size, axis=0)
            feeds = _feeds(layer.tail, row, activations, np.ones((size, *self.manifest.logits), np.float32))
            batch_sizes.run_batches(tail.run, feeds, ["logits", "gradients"], self._sizes)

    def _check_golden(self) -> None:
        """Compare the golden logits; in every bucket, which is its first run, and with all that may be asked for."""
        pixels, expected = _read_golden(self._folder / self.manifest.golden.file)
        self._compare(pixels, expected, ["logits"])
        for size in reversed(self._sizes):
            batch, logits = (np.repeat(array[:1], size, axis=0) for array in (pixels, expected))
            self._compare(batch, logits, list(self._trunk.outputs))

    def _compare(self, pixels: NDArray[Any], expected: NDArray[Any], outputs: Sequence[str]) -> None:
        golden = self.manifest.golden
        try:
            found = self._trunk.run({"pixels": pixels}, outputs)["logits"]
        except InferenceError as error:
            raise BundleError(f"the golden input cannot be run: {error}") from error
        if found.shape != expected.shape:
            raise BundleError(f"the golden logits are {expected.shape}, the trunk gives {found.shape}")
        off = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12))
        if not off <= golden.tolerance:
            raise BundleError(
                f"the golden input is not reproduced: off by {off:.2g} of the greatest logit, "
                f"{golden.tolerance:.2g} is allowed"
            )


def _weight(folder: Path) -> int:
    """Bytes of the trunk and of the weights that it shares with the tails."""
    return sum(file.stat().st_size for file in (folder / "trunk.onnx", folder / WEIGHTS) if file.exists())


def _feeds(
    tail: Tail,
    row: Arrays,
    activations: NDArray[np.float32],
    seeds: NDArray[np.float32],
    inner: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
) -> Arrays:
    """The inputs of a tail; what bypasses the layer is a view, repeated for every row without a copy."""
    crossing = {name: np.broadcast_to(row[name], (len(activations), *row[name].shape)) for name in tail.crossing}
    ways = {seed_name(name): inner.get(name, NO_SEED) for name in tail.seeds}
    return {"activations": activations, "seed": seeds, **crossing, **ways}


def _read_golden(file: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        with np.load(BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            return arrays["pixels"], arrays["logits"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise BundleError(f"{file.name} holds no golden input: {error}") from error
