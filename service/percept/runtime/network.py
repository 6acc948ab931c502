"""One loaded bundle: the trunk, the tails, and the checks that they are what the manifest states.

Images and activations come in; the trunk's outputs and gradients leave. Every method blocks, and several threads may
call it at once. It knows no queue and no task. The tail of the CAM layer is loaded with the trunk, every other tail
when it is first used.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from percept.bundle.integrity import check_files, read_manifest
from percept.bundle.manifest import WEIGHTS, Layer, Manifest, Tail, seed_name
from percept.errors import BundleError, GradientsUnavailable, InferenceError
from percept.runtime.batch_sizes import run_batches
from percept.runtime.golden import check_golden
from percept.runtime.providers import DEFAULT_GPU_OPTIONS, Device, GpuOptions, options_for_trunk
from percept.runtime.session import Arrays, Session
from percept.runtime.signature import check_tail, check_trunk
from percept.telemetry.context import stage

# On a CPU a trunk up to this size is loaded twice: with several threads for a run that is alone, and with one thread
# for concurrent runs, which would lose 7 or 8 % of their throughput by sharing cores. A larger trunk is loaded once.
MAX_PARALLEL_TRUNK_BYTES = 2**27
NO_SEED = np.zeros((1, 1, 1, 1), np.float32)  # broadcasts to the shape of any layer
NO_LAYER_SEEDS: Mapping[str, NDArray[np.float32]] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class TrunkInput:
    """One prepared image, uint8 [H,W,C], and the names of the trunk outputs that it needs."""

    pixels: NDArray[np.uint8]
    outputs: frozenset[str]


class Linearity(NamedTuple):
    """How the logits depend on a layer.

    `linear`: they are linear in it plus a constant, so the gradient is the same for every image. `uniform`: the
    gradient is also the same in every cell, as behind average pooling and one linear layer.
    """

    linear: bool
    uniform: bool


class Network:
    """A bundle that passed all checks when it was loaded."""

    def __init__(
        self,
        folder: Path,
        device: Device,
        threads: int,
        batch_sizes: Sequence[int] = (),
        gpu_options: GpuOptions = DEFAULT_GPU_OPTIONS,
    ) -> None:
        """Load and check the bundle in `folder`; raises `BundleError` with the reason if the bundle is invalid.

        Every one of `batch_sizes` is run once before the network counts as loaded. The manifest's precision and TF32
        are added to `gpu_options`.
        """
        self.manifest: Manifest = read_manifest(folder)
        self._folder, self._device, self._threads, self._batch_sizes = folder, device, threads, tuple(batch_sizes)
        self._gpu_options = replace(gpu_options, tf32=self.manifest.tf32)
        small = self._weight_bytes() <= MAX_PARALLEL_TRUNK_BYTES
        self._wants_parallel_trunk = device == "cpu" and threads > 1 and small
        self._trunk = self._load_trunk()
        self._parallel_trunk = self._trunk
        check_trunk(self._trunk, self.manifest)
        check_golden(self._trunk, folder, self.manifest, self._batch_sizes)
        self._tails: dict[str, Session] = {}
        self._linearity: dict[str, Linearity] = {}
        self._loading = threading.Lock()
        cam_layer = self.manifest.layer(self.manifest.cam_layer)
        if cam_layer is not None and cam_layer.tail is not None:
            try:
                self._load_tail(cam_layer, just_checked=True)
            except InferenceError as error:
                raise BundleError(f"the tail of {cam_layer.name!r} cannot be run: {error}") from error

    def load_parallel_trunk(self) -> None:
        """Load the trunk of a small network again, with one thread, for concurrent runs."""
        if self._wants_parallel_trunk and self._parallel_trunk is self._trunk:
            self._parallel_trunk = Session(self._folder / self.manifest.trunk)

    def outputs_for_gradients(self, layer: Layer) -> frozenset[str]:
        """The names of the trunk outputs that gradients at `layer` need."""
        crossing = layer.tail.crossing if layer.tail else ()
        return frozenset({"logits", layer.name, *crossing})

    def run_trunk(self, inputs: Sequence[TrunkInput], alone: bool = True) -> list[Arrays]:
        """Run the trunk on a batch; for each image the outputs that it needs, without the batch dimension.

        `alone` says that no other run is in progress, so that this one may use the threads of all cores.
        """
        outputs = sorted(frozenset().union(*(image.outputs for image in inputs)))
        trunk = self._trunk if alone else self._parallel_trunk
        pixels = [image.pixels for image in inputs]
        if self._batch_sizes:
            batch = run_batches(trunk.run, {"pixels": pixels}, outputs, self._batch_sizes)
        else:
            batch = trunk.run({"pixels": pixels[0][None] if len(pixels) == 1 else np.stack(pixels)}, outputs)
        return [{name: batch[name][k] for name in image.outputs} for k, image in enumerate(inputs)]

    def run_tail(
        self,
        layer: Layer,
        trunk_outputs: Arrays,
        activations: NDArray[np.float32],
        seeds: NDArray[np.float32],
        outputs: Sequence[str] = ("logits", "gradients"),
        layer_seeds: Mapping[str, NDArray[np.float32]] = NO_LAYER_SEEDS,
    ) -> Arrays:
        """Run the network after `layer`, on n activations [n,C,h,w] of one image with one seed [n,...] each.

        Returns `logits` [n,...] and `gradients` [n,C,h,w] = d(sum of seed * logits)/dA, or only the one that `outputs`
        names. `trunk_outputs` are those of the image; they hold the tensors that bypass the layer. `layer_seeds` are
        the seeds of later layers for which the tail has a seed input (see `percept.bundle.manifest.Tail`); a missing
        one is 0. Raises `GradientsUnavailable` if the layer has no tail.
        """
        if layer.tail is None:
            raise GradientsUnavailable(f"layer {layer.name!r} has no gradients: {layer.unavailable}")
        feeds = _tail_feeds(layer.tail, trunk_outputs, activations, seeds, layer_seeds)
        tail = self._tails.get(layer.name) or self._load_tail(layer)
        with stage("tail"):
            if self._batch_sizes:
                return run_batches(tail.run, feeds, outputs, self._batch_sizes)
            return tail.run({name: np.ascontiguousarray(array) for name, array in feeds.items()}, outputs)

    def compute_gradients(self, layer: Layer, trunk_outputs: Arrays, seed: NDArray[np.float32]) -> NDArray[np.float32]:
        """The gradients d(sum of seed * logits)/dA at `layer`, float32 [C,h,w], for the trunk outputs of one image."""
        activations = trunk_outputs[layer.name][None]
        result = self.run_tail(layer, trunk_outputs, activations, seed[None], ["gradients"])
        return np.asarray(result["gradients"][0])

    def is_linear(self, layer: Layer) -> bool:
        """Whether the logits are linear in the layer plus a constant: the gradient is the same for every image."""
        return (self._linearity.get(layer.name) or self._measure_linearity(layer)).linear

    def has_uniform_gradients(self, layer: Layer) -> bool:
        """Whether the gradient is also the same in every cell, as behind average pooling and one linear layer."""
        return all(self._measure_linearity(layer))

    def knows_linearity(self, layer: Layer) -> bool:
        """Whether `is_linear` and `has_uniform_gradients` answer without running the tail."""
        return layer.tail is None or bool(layer.tail.crossing) or layer.name in self._linearity

    def _measure_linearity(self, layer: Layer) -> Linearity:
        """Compare the gradients at two random activations, and in all cells of each, for one random seed."""
        if layer.tail is None or layer.tail.crossing:
            return Linearity(False, False)
        if layer.name not in self._linearity:
            rng = np.random.default_rng(0)
            A = rng.standard_normal((2, *layer.shape)).astype(np.float32)
            seed = rng.standard_normal((1, *self.manifest.logits)).astype(np.float32)
            g = self.run_tail(layer, {}, A, np.repeat(seed, 2, axis=0), ["gradients"])["gradients"]
            self._linearity[layer.name] = _compare_gradients(g)
        return self._linearity[layer.name]

    def _load_trunk(self) -> Session:
        half = self.manifest.precision == "float16"
        gpu_options = options_for_trunk(
            self._gpu_options, half, self.manifest.preprocessing.shape, self._batch_sizes, self.manifest.files
        )
        file = self._folder / self.manifest.trunk
        return Session(file, self._device, self._threads, spin=self._wants_parallel_trunk, gpu_options=gpu_options)

    def _weight_bytes(self) -> int:
        """Bytes of the trunk and of the weights that it shares with the tails."""
        files = (self._folder / self.manifest.trunk, self._folder / WEIGHTS)
        return sum(file.stat().st_size for file in files if file.exists())

    def _load_tail(self, layer: Layer, just_checked: bool = False) -> Session:
        assert layer.tail is not None
        with self._loading:
            if layer.name not in self._tails:
                if not just_checked:  # the files may have changed since the trunk was loaded
                    files = {layer.tail.file, WEIGHTS} & self.manifest.files.keys()
                    check_files(self._folder, self.manifest, files)
                # TensorRT supports few operators of a gradient, and rounds float32 to TF32 even if `tf32` is False.
                device: Device = "cuda" if self._device == "tensorrt" else self._device
                file = self._folder / layer.tail.file
                session = Session(file, device, self._threads, gpu_options=self._gpu_options)
                check_tail(session, layer)
                self._warm_up(session, layer)
                self._tails[layer.name] = session
            return self._tails[layer.name]

    def _warm_up(self, tail: Session, layer: Layer) -> None:
        """Run a tail once in every batch size: the first run of each plans, loads and allocates."""
        assert layer.tail is not None
        if not self._batch_sizes:
            return
        black = TrunkInput(np.zeros(self.manifest.preprocessing.shape, np.uint8), self.outputs_for_gradients(layer))
        (trunk_outputs,) = self.run_trunk([black])
        for size in reversed(self._batch_sizes):  # the memory that the largest size allocates serves the others
            activations = np.repeat(trunk_outputs[layer.name][None], size, axis=0)
            seeds = np.ones((size, *self.manifest.logits), np.float32)
            feeds = _tail_feeds(layer.tail, trunk_outputs, activations, seeds)
            run_batches(tail.run, feeds, ["logits", "gradients"], self._batch_sizes)


def _compare_gradients(g: NDArray[np.float32]) -> Linearity:
    """The linearity of a tail with the gradients g [2,C,h,w] at two activations."""
    if not np.isfinite(g).all():
        return Linearity(False, False)
    limit = 1e-4 * np.abs(g).max()
    linear = np.abs(g[0] - g[1]).max() <= limit
    uniform = np.abs(g - g.mean((2, 3), keepdims=True)).max() <= limit
    return Linearity(bool(linear), bool(uniform))


def _tail_feeds(
    tail: Tail,
    trunk_outputs: Arrays,
    activations: NDArray[np.float32],
    seeds: NDArray[np.float32],
    layer_seeds: Mapping[str, NDArray[np.float32]] = NO_LAYER_SEEDS,
) -> Arrays:
    """The inputs of a tail; the tensors that bypass the layer are broadcast to every row without a copy."""
    n = len(activations)
    crossing = {name: np.broadcast_to(trunk_outputs[name], (n, *trunk_outputs[name].shape)) for name in tail.crossing}
    later_seeds = {seed_name(name): layer_seeds.get(name, NO_SEED) for name in tail.seeds}
    return {"activations": activations, "seed": seeds, **crossing, **later_seeds}
