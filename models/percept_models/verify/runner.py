"""The graphs of one bundle in ONNX Runtime, run on the images on which the bundle is verified.

In come the bundle's folder and images; out come the trunk's outputs and what each tail computes from them.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path

import numpy as np

from percept.bundle.manifest import Layer, Manifest, seed_name
from percept.runtime.cpu_count import count_cpus
from percept.runtime.session import Device, GpuOptions, Session
from percept_models.autodiff.tail import ACTIVATIONS, LOGITS, SEED
from percept_models.graph.reader import Array
from percept_models.sources.trunk import PIXELS
from percept_models.verify.checks import MILLIONTH, differences

OPEN_SESSIONS = 2  # each holds all weights of its graph


class BundleRunner:
    """A bundle, the images uint8 [N,H,W,C] on which it is verified, its outputs for them and a random seed.

    `outputs` holds the trunk's logits and layers by name; `seed` float32 has the shape of the logits. A session is
    made as the service makes it, or with ONNX Runtime's optimizers off.
    """

    def __init__(self, folder: Path, manifest: Manifest, pixels: Array) -> None:
        """Run the trunk; a single image is first augmented to eight."""
        self.folder = folder
        self.manifest = manifest
        self.augmented = len(pixels) == 1
        self.pixels = _augment(pixels) if self.augmented else pixels
        self.layers_with_tails = [layer for layer in manifest.layers if layer.tail]
        self._sessions: dict[tuple[str, Device, bool], Session] = {}
        self.outputs = self.run_trunk()
        self.seed = np.random.default_rng(0).uniform(-1, 1, self.outputs[LOGITS].shape).astype(np.float32)

    def first_images(self, n: int) -> "BundleRunner":
        """The same for the first n images."""
        runner = copy(self)
        runner.pixels, runner.seed = self.pixels[:n], self.seed[:n]
        runner.outputs = {name: values[:n] for name, values in self.outputs.items()}
        return runner

    def run_trunk(self, device: Device = "cpu", optimize: bool = True) -> dict[str, Array]:
        """All outputs of the trunk by name."""
        return self._run(self.manifest.trunk, {PIXELS: self.pixels}, device, optimize)

    def run_trunk_on_each(self) -> dict[str, Array]:
        """All outputs of the trunk by name, each image run alone."""
        rows = [self._run(self.manifest.trunk, {PIXELS: image[None]}) for image in self.pixels]
        return {name: np.concatenate([row[name] for row in rows]) for name in self.outputs}

    def run_tail(
        self,
        layer: Layer,
        outputs: Mapping[str, Array],
        seed: Array,
        device: Device = "cpu",
        layer_means: bool = False,
        optimize: bool = True,
    ) -> dict[str, Array]:
        """The logits and gradients of a layer's tail for a trunk's outputs.

        The gradients are those of sum(seed * logits); with `layer_means`, plus the weighted mean of every layer that
        has a seed of its own. Without it these layers' seeds are zero.
        """
        assert layer.tail is not None
        feeds = {name: outputs[name] for name in layer.tail.crossing}
        for name in layer.tail.seeds:
            weights = mean_weights(outputs[name].shape)
            feeds[seed_name(name)] = weights if layer_means else 0 * weights
        return self._run(layer.tail.file, {ACTIVATIONS: outputs[layer.name], SEED: seed, **feeds}, device, optimize)

    def measure_rounding(self, layer: Layer, outputs: Mapping[str, Array]) -> dict[str, list[float]]:
        """By output of a layer's tail and image, how far it moves when the layer's activations grow by a millionth."""
        still = self.run_tail(layer, outputs, self.seed)
        grown = {layer.name: outputs[layer.name] * np.float32(1 + MILLIONTH)}
        moved = self.run_tail(layer, {**outputs, **grown}, self.seed)
        return {name: differences(moved[name], y) for name, y in still.items()}

    def _run(
        self, file: str, feeds: dict[str, Array], device: Device = "cpu", optimize: bool = True
    ) -> dict[str, Array]:
        session = self._session(file, device, optimize)
        return session.run(feeds, list(session.outputs))

    def _session(self, file: str, device: Device, optimize: bool) -> Session:
        key = (file, device, optimize)
        if key not in self._sessions:
            while len(self._sessions) >= OPEN_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
            half = self.manifest.precision == "float16" and file == self.manifest.trunk
            gpu_options = GpuOptions(tf32=self.manifest.tf32, half=half)
            threads = count_cpus()
            self._sessions[key] = Session(
                self.folder / file, device, threads, gpu_options=gpu_options, optimize=optimize
            )
        return self._sessions[key]


def mean_weights(shape: Sequence[int]) -> Array:
    """The weights [1,C,1,1] of a mean over the cells of a layer [N,C,h,w].

    They differ by channel: the plain mean of a normalization over the channels never changes.
    """
    _, channels, height, width = shape
    weights = np.linspace(0.5, 1.5, channels) / (channels * height * width)
    return weights.astype(np.float32).reshape(1, channels, 1, 1)


def _augment(pixels: Array) -> Array:
    """Eight images [8,H,W,C] of one [1,H,W,C]: flipped, with the channels reversed, and the negatives."""
    images = [pixels, pixels[:, ::-1], pixels[:, :, ::-1], pixels[..., ::-1]]
    return np.concatenate([*images, *(255 - image for image in images)])
